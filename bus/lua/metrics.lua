-- What metrics tell of one topic: less than `stats` and `rates`, at half the cost.
-- Reads only.
-- KEYS: tasks_stream tasks delayed dead counters settings audit minutes
-- ARGV: ms after which a reader is no sign of life any more, how many minutes the
--   quantiles are of
-- Returns {live, running, delayed, dead, unmended, ms since the oldest waiting task came,
--   1 if paused, readers, what half of the tasks done waited at most in ms (-1 if none was
--   done), what 99 of 100 waited, what half of the attempts ran, what 99 of 100 ran,
--   {names and values of counters}}
local alive_ms, span = tonumber(ARGV[1]), tonumber(ARGV[2])
local now, set = now_ms(), call('HMGET', settings, 'group', 'paused')
local group = set[1]

local pending, handed, readers, last = 0, 0, 0, '0-0'
local rows = group and redis.pcall('XINFO', 'GROUPS', tasks_stream) or {}
for _, flat in ipairs(rows.err and {} or rows) do
  local of = facts_of(flat)
  if of.name == group then
    pending, last = of.pending, of['last-delivered-id']
    -- Of a topic that rests nobody reads: then there is nothing to ask.
    rows = of.consumers > 0 and redis.pcall('XINFO', 'CONSUMERS', tasks_stream, group)
    for _, row in ipairs(rows and not rows.err and rows or {}) do
      local facts = facts_of(row)
      if facts.name == HANDED then handed = facts.pending end
      if reads_by_hand(facts, alive_ms) then readers = readers + 1 end
    end
  end
end

local live, late, age = call('HLEN', tasks), call('ZCARD', delayed), 0
rows = {}
if handed > 0 then
  rows = redis.pcall('XPENDING', tasks_stream, group, '-', '+', 1, HANDED)
elseif live - late - pending > 0 then
  rows = call('XRANGE', tasks_stream, '(' .. last, '+', 'COUNT', 1)
end
if rows[1] then age = math.max(0, now - match(rows[1][1], '^%d+')) end
-- Rows of entries that somebody else wrote and nobody adopted yet are no tasks so far.
local running = math.max(0, math.min(pending - handed, live - late))

-- Most topics are idle most of the time, and many were never busy for long: the last
-- minute says the one, few fields say the other.
local waits, runs, minute = {}, {}, floor(now / 60000)
local busy = tonumber(call('HGET', minutes, 'last') or '')
if busy and minute - busy < span then
  if call('HLEN', minutes) <= span then
    rows = call('HVALS', minutes)
  else
    local fields = {}
    for back = 1, span do fields[back] = (minute - back + 1) % 180 end
    rows = call('HMGET', minutes, unpack(fields))
  end
  for _, row in ipairs(rows) do
    local age = row and minute - (match(row, '^%d+') or 0)
    -- A row left over from three hours ago counts nothing.
    for name, bucket, count in gmatch(age and age >= 0 and age < span and row or '',
        ' ([wr])(%d+)=(%d+)') do
      local found, b = name == 'w' and waits or runs, tonumber(bucket)
      found[b] = (found[b] or 0) + count
    end
  end
end

-- The upper edge of the bucket that reaches the share: right to a doubling.
local function quantile(found, share)
  local left = 0
  if next(found) == nil then return -1 end
  for bucket = 0, 31 do left = left + share * (found[bucket] or 0) end
  for bucket = 0, 31 do
    left = left - (found[bucket] or 0)
    if found[bucket] and left <= 0 then return 2 ^ bucket end
  end
  return -1
end

local told = redis.pcall('HMGET', audit, 'live.told', 'dead.told')
local unmended = (tonumber(told[1]) or 0) + (tonumber(told[2]) or 0)
return { live, running, late, call('XLEN', dead), unmended, age, set[2] == '1' and 1 or 0,
  readers, quantile(waits, 0.5), quantile(waits, 0.99), quantile(runs, 0.5),
  quantile(runs, 0.99), call('HGETALL', counters) }
