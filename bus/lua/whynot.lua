-- What a task waits for, as far as its topic knows.
-- Reads only.
-- KEYS: tasks_stream tasks settings minutes done
-- ARGV: id, most entries to count ahead of it, most behind it, ms after which a reader is
--   no sign of life any more
-- Returns {now, paused 0/1, max attempts of the topic or '', holder or '', its idle ms,
--   tasks ahead, 1 if there are more ahead than were counted, mean run time in ms ('' if
--   no attempt ended within an hour), start of the busy time in ms ('' if nothing is
--   unread), when the first task ended in it and how many did, tasks done and attempts
--   ended in its minutes, consumers}; consumers: flat name, rows held, 1 if it is an
--   agent by hand with a sign of life.
-- Entries are counted by looking at them, up to a number and 2 MB, from the head, then
-- from the end: sids and lag tell nothing once an entry was deleted. Each look costs the
-- server 2 us, so they are few.
-- The topic is busy for as long as the oldest unread entry waits; of that the last 30 s
-- count, or eight mean runs where these are longer.
local id, most, alive_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
local now = now_ms()
local set = call('HMGET', settings, 'paused', 'max_attempts', 'group')
local group = set[3]

local consumers, pending, handed = {}, 0, 0
if group then
  local rows = redis.pcall('XINFO', 'CONSUMERS', tasks_stream, group)
  for _, flat in ipairs(rows.err and {} or rows) do
    local facts = facts_of(flat)
    local by_hand, at = reads_by_hand(facts, alive_ms), #consumers
    pending = pending + facts.pending
    if facts.name == HANDED then
      handed = facts.pending
    elseif by_hand or facts.pending > 0 then
      consumers[at + 1], consumers[at + 2] = facts.name, facts.pending
      consumers[at + 3] = by_hand and 1 or 0
    end
  end
end

-- How many entries lie between two, up to a number, and whether that is all of them.
local function counted(verb, from, to, most)
  local found, bytes, step = 0, 0, 8
  while true do
    step = math.min(step, most - found)
    local rows = call(verb, tasks_stream, from, to, 'COUNT', step)
    for i = 1, #rows do
      for j = 1, #rows[i][2] do bytes = bytes + #rows[i][2][j] end
    end
    found = found + #rows
    if #rows < step then return found, true end
    if found >= most or bytes >= 2000000 then return found, false end
    from, step = '(' .. rows[#rows][1], math.min(2 * step, 128)
  end
end

local last = last_delivered(tasks_stream, group)
local who, idle, ahead, more = '', 0, 0, 0
local text = call('HGET', tasks, id)
local r = text and read_record(text)
if r and r.sid ~= '' then
  local rows = group and redis.pcall('XPENDING', tasks_stream, group, r.sid, r.sid, 1) or {}
  if not rows.err and rows[1] then who, idle = rows[1][2], rows[1][3] end
  -- Those handed over are taken first, in their order; then entries nobody has read.
  if who == HANDED then
    rows = redis.pcall('XPENDING', tasks_stream, group, '-', '(' .. r.sid, most, HANDED)
    ahead = rows.err and 0 or #rows
    if ahead >= most then more = 1 end
  elseif who == '' then
    local found, all = counted('XRANGE', '(' .. last, '(' .. r.sid, most)
    if not all then
      local behind, to_the_end =
        counted('XREVRANGE', '+', '(' .. r.sid, tonumber(ARGV[3]))
      if to_the_end then
        found = math.max(found, call('XLEN', tasks_stream) - pending - behind - 1)
      else
        more = 1
      end
    end
    ahead = handed + found
  end
end

local minute = floor(now / 60000)
local function row_of(back)
  local row = call('HGET', minutes, tostring((minute - back) % 180))
  return row and match(row, '^%d+') == tostring(minute - back) and row or ''
end
local runs, run_ms, mean = 0, 0, ''
for back = 0, 59 do
  if runs >= 100 then break end
  for bucket, count in gmatch(row_of(back), ' r(%d+)=(%d+)') do
    runs, run_ms = runs + count, run_ms + count * 0.75 * 2 ^ bucket
  end
end
if runs > 0 then mean = run_ms / runs end

local since, ends, first, done_then, ended_then = '', 0, 0, 0, 0
local head = call('XRANGE', tasks_stream, '(' .. last, '+', 'COUNT', 1)
if head[1] then
  local from = now - math.max(30000, 8 * (mean == '' and 0 or mean))
  from = math.max(from, tonumber(match(head[1][1], '^%d+')))
  since = int(from)
  ends = call('ZCOUNT', done, int(from * 4096), '+inf')
  local row = call('ZRANGEBYSCORE', done, int(from * 4096), '+inf', 'WITHSCORES',
    'LIMIT', 0, 1)
  if row[2] then first = floor(row[2] / 4096) end
  for back = 0, math.min(59, minute - floor(from / 60000)) do
    for name, count in gmatch(row_of(back), ' ([dtx])=(%d+)') do
      if name == 'd' then done_then = done_then + count end
      ended_then = ended_then + count
    end
  end
end
return { now, set[1] == '1' and 1 or 0, bound_of(set[2], ''), who, idle, ahead, more,
  mean == '' and '' or fmt('%.3f', mean), since, first, ends, done_then, ended_then,
  consumers }
