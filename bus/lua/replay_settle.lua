-- What came of the letters a bulk replay put back to work, and how far it is in a topic.
-- KEYS: tasks dead dead_index done results <todo> <out> <facts> <told>
-- ARGV: how many outcomes to look for (0: only how far it is), how many are told by name
-- Returns {looked, settled, ms until the next is due or -1, letters left to replay,
--   outcomes that are open, facts}.
-- Each is looked for again after half of the time it has been out, 10 s at most: a look
-- costs the same however many letters wait for their agents.
if call('EXISTS', facts) == 0 then return { 0, 0, -1, 0, 0, {} } end
local now = now_ms()
local due = call('ZRANGEBYSCORE', out, '-inf', int(now), 'LIMIT', 0, ARGV[1])

local function outcome(id, epoch)
  local text = call('HGET', tasks, id)
  local r = text and read_record(text)
  if r then return r.epoch > epoch and 'dead' or nil end
  if call('HGET', dead_index, id) then return 'dead' end
  local score = call('ZSCORE', done, id)
  if not score then return 'unknown' end
  local row, flat = ended_row(results, score, id)
  local past = flat and facts_of(flat)
  if past and (tonumber(past.epoch or '') or 0) > epoch then return 'dead' end
  -- The head of a row of ours; of one that is trimmed, or written by hand, it is done.
  local state = match(row or '', '^{"id":"[^"]*","topic":"[^"]*","state":"(%l+)"')
  if state == 'discarded' then return 'dead' end
  return state == 'cancelled' and state or 'done'
end

local counts, rows, ends, later = {}, {}, {}, {}
for i = 1, #due do
  local id, epoch, since = match(due[i], '^(%S+) (%d+) (%d+)$')
  local what = outcome(id, tonumber(epoch))
  if what then
    counts[what] = (counts[what] or 0) + 1
    ends[#ends + 1] = due[i]
    if what ~= 'done' then rows[#rows + 1] = what .. ' ' .. id .. ' ' end
  else
    later[#later + 1] = int(now + math.min(math.max((now - since) / 2, 100), 10000))
    later[#later + 1] = due[i]
  end
end
if #ends > 0 then call('ZREM', out, unpack(ends)) else call('HDEL', facts, '') end
if #later > 0 then call('ZADD', out, unpack(later)) end
for what, count in pairs(counts) do call('HINCRBY', facts, what, count) end
local room = ARGV[2] - call('LLEN', told)
for i = 1, math.min(#rows, room) do call('RPUSH', told, rows[i]) end
if #rows > 0 then call('EXPIRE', told, math.max(call('TTL', facts), 1)) end
local first = call('ZRANGE', out, 0, 0, 'WITHSCORES')
return { #due, #ends, first[2] and math.max(first[2] - now, 0) or -1, call('ZCARD', todo),
         call('ZCARD', out), call('HGETALL', facts) }
