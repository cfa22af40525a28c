-- End the attempt of one task: retry later, dead letter, or cancelled.
-- KEYS: tasks_stream tasks delayed parked attempts dead dead_index errors results done counters settings minutes hours events <group>
-- ARGV: group, consumer, topic, results to keep, sid, n, id, delay ms, '1' if final,
--       max attempts (handler's or default), attempt line, error json, fingerprint,
--       letter json, run bucket
-- Returns {'delayed', due ms} | {'dead', dead id} | {'cancelled'} | {'fenced', record}
--   | {'gone'}.
-- Priority of max_attempts: task > topic > handler > default.
local working, me, topic, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local sid, fence_n, id = ARGV[5], tonumber(ARGV[6]), ARGV[7]
local text = call('HGET', tasks, id)
local r = text and read_record(text)
if not r then return { 'gone' } end
if r.sid ~= sid or r.n ~= fence_n
    or not holds(tasks_stream, working, sid, me) then
  return { 'fenced', text }
end
local e = entry(tasks_stream, sid)
if not e then return { 'gone' } end
local now = now_ms()
local k = { dead = dead, dead_index = dead_index, group = group, errors = errors,
            results = results, done = done, tasks = tasks, attempts = attempts,
            counters = counters, events = events }
local limits = call('HMGET', settings, 'max_attempts', 'results_keep')
local most = tonumber(option(r.options, 'm') or limits[1] or ARGV[10])
local fence = sid .. '.' .. int(r.n)
local meta = with_enqueued(e.meta, sid)

call('XACK', tasks_stream, working, sid)
call('XDEL', tasks_stream, sid)
r.attempt = r.attempt + 1
remember(attempts, id, ARGV[11])
if match(r.flags, 'c') then
  -- A cancel was asked for while it ran; whatever is not a completion ends it so.
  cancelled(k, topic, id, r, e, limits[2] or keep, now)
  return { 'cancelled' }
end
if ARGV[9] ~= '1' and r.attempt < most then
  r.sid, r.n = '', 0
  local due = now + tonumber(ARGV[8])
  call('HSET', parked, id, meta .. '\n' .. e.json)
  call('ZADD', delayed, int(due), id)
  call('HSET', tasks, id, write_record(r))
  call('HINCRBY', counters, 'retried', 1)
  tally(minutes, hours, now, { t = 1 })
  note(events, 'delayed', id, 'attempt ' .. int(r.attempt) .. ' of ' .. int(most))
  return { 'delayed', int(due) }
end
local history = call('HGET', attempts, id)
call('HDEL', tasks, id)
call('HDEL', attempts, id)
local facts = meta .. ',epoch=' .. int(r.epoch)
if r.options ~= '' then facts = facts .. ',' .. r.options end
local dead_id = bury(k, now, { id = id, json = ARGV[14], error = ARGV[12],
  fp = ARGV[13], fence = fence, attempts = history, meta = facts })
call('HINCRBY', counters, 'died', 1)
tally(minutes, hours, now, { x = 1, ['r' .. ARGV[15]] = 1 })
note(events, 'dead', id, ARGV[13])
return { 'dead', dead_id }
