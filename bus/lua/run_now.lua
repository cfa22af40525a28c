-- Start one delayed task now instead of when it is due.
-- KEYS: tasks_stream tasks delayed parked attempts dead dead_index results done seen0 seen1 events
-- ARGV: id, mark of the request, id of the task it would send in its place ('' without a
--   request that can come again)
-- Returns 'started' | 'repeat' | 'sent' (that other task, before) | 'live' (it waits or
--   runs already) | 'torn' (its payload is being sought) | 'none'.
-- A repeat of the same request is told by what it did before, wherever the task is by then:
-- its answer was lost, and what was started may have failed since, and be delayed again or
-- dead; what was discarded may have been brought back. So all of it is asked for before
-- this or anything else acts.
local id, mark, other = ARGV[1], ARGV[2], ARGV[3]
if told_before(events, 'hurried', id, mark) then return 'repeat' end
if other ~= '' then
  local k = { attempts = attempts, done = done, results = results }
  local dead_id = call('HGET', dead_index, id)
  local letter = dead_id and letter_of(dead, dead_id)
  if replayed_before(k, id, letter, mark) then return 'repeat' end
  if call('HEXISTS', seen0, other) == 1 or call('HEXISTS', seen1, other) == 1 then
    return 'sent'
  end
end
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
