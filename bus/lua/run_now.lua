-- Start one delayed task now instead of when it is due.
-- KEYS: tasks_stream tasks delayed parked events
-- ARGV: id, mark of the request
-- Returns 'started' | 'repeat' | 'live' (it waits or runs already) | 'torn' (its payload
--   is being sought) | 'none'.
-- A repeat of the same request is told by its mark in the event log, wherever the task is
-- by then: its answer was lost, and what it started may have failed and be delayed again.
local id, mark = ARGV[1], ARGV[2]
if told_before(events, 'hurried', id, mark) then return 'repeat' end
local text = call('HGET', tasks, id)
local r = text and read_record(text)
if not r then return 'none' end
if r.sid ~= '' then return 'live' end
local meta, json = parked_of(call('HGET', parked, id))
if not json then return 'torn' end
of_their_types({}, { tasks_stream }, {})
-- ZREM is the first write, so this passes at maxmemory, as promotion does.
call('ZREM', delayed, id)
r.sid = call('XADD', tasks_stream, '*', 'id', id, 'json', json, 'meta', meta)
r.n = 0
call('HDEL', parked, id)
call('HSET', tasks, id, write_record(r))
note(events, 'hurried', id, mark)
return 'started'
