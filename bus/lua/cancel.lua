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
local json, enqueued, fence = nil, '0', ''
if r.sid == '' then
  local meta
  meta, json = match(call('HGET', parked, id) or '\n', '^([^\n]*)\n(.*)$')
  enqueued = enqueued_ms(meta, '')
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
  local e = entry(tasks_stream, r.sid)
  json = e and e.json
  enqueued = enqueued_ms(e and e.meta or '', r.sid)
  fence = r.sid .. '.' .. int(r.n)
  if who then call('XACK', tasks_stream, set[1], r.sid) end
  call('XDEL', tasks_stream, r.sid)
end
call('HDEL', tasks, id)
call('HDEL', attempts, id)
publish({ results = results, done = done }, id, row_without_result(id, topic,
  'cancelled', json or 'null', r, fence, enqueued, now_ms()), set[2] or ARGV[3])
call('HINCRBY', counters, 'cancelled', 1)
note(events, 'cancelled', id)
return 'cancelled'
