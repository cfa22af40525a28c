-- A hand-written agent's completion without a result.
-- KEYS: tasks_stream tasks done dead_index dead attempts counters settings minutes hours events
-- ARGV: group, entry id
-- Returns 1 acknowledged, 0 not pending in that group.
-- In the working group this ends the task. Its index entry names a result that does not
-- exist, which readers take as "done, without result".
local group, sid = ARGV[1], ARGV[2]
local working = call('HGET', settings, 'group')
if (working or '') ~= group and (working
    or call('HEXISTS', settings, 'observer:' .. group) == 1) then
  return call('XACK', tasks_stream, group, sid)
end
if not holder(tasks_stream, group, sid) then return 0 end
local e = entry(tasks_stream, sid)
local k = { stream = tasks_stream, tasks = tasks, done = done, dead_index = dead_index,
            dead = dead, counters = counters }
local r = e and record_of(k, sid, e)
of_their_types({ tasks, attempts, counters, minutes, hours }, {}, { done })
leave(tasks_stream, group, sid)
if not r then return 1 end
local now = now_ms()
call('HDEL', tasks, e.id)
call('HDEL', attempts, e.id)
call('ZADD', done, int(now * 4096), e.id)
call('HINCRBY', counters, 'done', 1)
tally(minutes, hours, counters, now, { d = 1 })
note(events, 'done', e.id)
return 1
