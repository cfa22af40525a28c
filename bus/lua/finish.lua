-- End one task at its first attempt with its result: what a call brings where tasks come one
-- by one, at three quarters of the cost of `complete`.
-- KEYS: tasks_stream results tasks done counters settings minutes
-- ARGV: as of `complete`, for one delivery that is the first of its task.
-- Returns {1}; or false, with all as it was: the delivery is not held any more, this minute
--   has no row yet or a later one has, memory is full, a counter is no number. `complete`
--   decides then, also about what comes as an error.
local group, me, sid, id = ARGV[1], ARGV[2], ARGV[4], ARGV[6]
local text = call('HGET', tasks, id)
if not text or find(text, sid .. '|0|0|0|0|', 1, true) ~= 1 then return false end
if not holds(tasks_stream, group, sid, me) then return false end

local minute = floor(now_ms() / 60000)
local stamp, field = fmt('%d', minute), fmt('%d', minute % 180)
local seen = call('HMGET', minutes, field, 'last')
local row = seen[1]
if seen[2] ~= stamp or not row or find(row, stamp .. ' ', 1, true) ~= 1 then return false end
local keep = bound_of(call('HGET', settings, 'results_keep'), ARGV[3])
of_their_types({}, { results }, { done })

-- The first write: refused whole at maxmemory, and where the counter is no number.
if not pcall(call, 'HINCRBY', counters, 'done', 1) then return false end
local added, at = pcall(call, 'XADD', results, 'MAXLEN', '=', keep, '*', 'id', id,
  'json', ARGV[9])
if not added then
  if call('HINCRBY', counters, 'done', -1) == 0 then call('HDEL', counters, 'done') end
  return false
end
row = counted(counted(counted(row, 'd', 1), 'w' .. ARGV[7], 1), 'r' .. ARGV[8], 1)
call('ZADD', done, done_score(at), id)
call('HSET', minutes, field, row)
call('XACK', tasks_stream, group, sid)
call('XDEL', tasks_stream, sid)
call('HDEL', tasks, id)
return { 1 }
