-- What one consumer was given since: whether it may run as it stands. Sent behind a blocking
-- read on the same connection, so that both answers come together.
-- Reads only.
-- KEYS: tasks_stream tasks settings
-- ARGV: group, consumer, sid it was given last before, the most to look at
-- Returns {now, paused or false, timeout_s of the topic or false, last sid of before the group
--   was made once more or false, flat sid, record}; entries without a record are left out.
local set = call('HMGET', settings, 'paused', 'timeout_s', 'renewed')
local out = { now_ms(), set[1], set[2], set[3] }
local rows = redis.pcall('XPENDING', tasks_stream, ARGV[1], '(' .. ARGV[3], '+', ARGV[4],
  ARGV[2])
for i = 1, #rows do
  local sid = rows[i][1]
  local e = entry(tasks_stream, sid)
  local text = e and call('HGET', tasks, e.id)
  if text then out[#out + 1], out[#out + 2] = sid, text end
end
return out
