-- Cancel one task: at once while it waits, when its attempt ends while it runs.
-- KEYS: tasks_stream tasks delayed parked attempts results done dead_index counters settings events
-- ARGV: topic, id, results to keep
-- Returns 'cancelled' | 'running' (asked for) | 'done' | 'dead' | 'unknown'.
local topic, id = ARGV[1], ARGV[2]
local text = call('HGET', tasks, id)
local r = text and read_record(text)
if not r then
  if call('ZSCORE', done, id) then return 'done' end
  if call('HEXISTS', dead_index, id) == 1 then return 'dead' end
  return 'unknown'
end
local set = call('HMGET', settings, 'group', 'results_keep')
local k = { tasks = tasks, attempts = attempts, results = results, done = done,
            counters = counters, events = events }
local e
if r.sid == '' then
  local meta, json = match(call('HGET', parked, id) or '', '^([^\n]*)\n(.*)$')
  if json then e = { json = json, meta = meta } end
  call('ZREM', delayed, id)
  call('HDEL', parked, id)
else
  local who = set[1] and holder(tasks_stream, set[1], r.sid)
  if who and who ~= HANDED then
    call('HDEL', tasks, '')
    if not match(r.flags, 'c') then
      r.flags = r.flags .. 'c'
      call('HSET', tasks, id, write_record(r))
      note(events, 'cancel_asked', id)
    end
    return 'running'
  end
  e = entry(tasks_stream, r.sid)
  if who then call('XACK', tasks_stream, set[1], r.sid) end
  call('XDEL', tasks_stream, r.sid)
end
cancelled(k, topic, id, r, e, set[2] or ARGV[3], now_ms())
return 'cancelled'
