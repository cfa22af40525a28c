-- A hand-written agent gives up on an entry: ack, delete, letter.
-- KEYS: tasks_stream tasks done attempts dead dead_index errors results counters settings minutes hours events <group>
-- ARGV: entry id, id for an unknown entry, letter json head and tail around the id,
--       error json, fingerprint, topic, results to keep
-- Returns the dead entry id; for a letter that exists already, that one's; '' where it was
-- replayed or discarded since; 'cancelled' where the task was asked for while it ran, and
-- ends so. A repeat of that is told by the entry id in the event log.
local sid, derived = ARGV[1], ARGV[2]
of_their_types({ tasks, attempts, dead_index, errors, counters, settings, minutes, hours },
  { dead }, { group })
local e = entry(tasks_stream, sid)
local k = { stream = tasks_stream, tasks = tasks, done = done, counters = counters,
            dead = dead, dead_index = dead_index, group = group, errors = errors,
            attempts = attempts, results = results, events = events }
local r = e and record_of(k, sid, e)
local id = r and e.id or derived
if not r then
  local exists = call('HGET', dead_index, id) or call('HGET', dead_index, 'alias:' .. id)
  if exists then return exists end
  if told_before(events, 'cancelled', nil, sid .. ' moved') then return 'cancelled' end
  -- Its letter was replayed or discarded since, and the task goes on without this entry.
  if call('HEXISTS', tasks, id) == 1 or call('ZSCORE', done, id) then return '' end
  call('HDEL', tasks, '')
  call('HINCRBY', counters, 'adopted', 1)
  r = new_record(sid)
end
local working = call('HGET', settings, 'group')
local who = working and holder(tasks_stream, working, sid)
who = who and who ~= HANDED and agent_json(who)
local asked = match(r.flags, 'c')
if asked then of_their_types({}, { results }, { done }) end
call('HDEL', tasks, '')
local now = now_ms()
-- When it began only its agent knows.
remember(attempts, id, '{"epoch":' .. int(r.epoch) .. ',"attempt":' .. int(r.attempt + 1)
  .. ',"agent":' .. (who or 'null') .. ',"fence":"' .. sid .. '.' .. int(r.n)
  .. '","finished_at":"' .. iso(now) .. '","error":' .. ARGV[5] .. '}')
if asked then
  r.attempt = r.attempt + 1
  local keep = bound_of(call('HGET', settings, 'results_keep'), ARGV[8])
  cancelled(k, ARGV[7], id, r, e, keep, now, nil, sid .. ' moved')
  leave(tasks_stream, working, sid)
  return 'cancelled'
end
-- So that a repeat, which knows the entry only, finds the same letter.
local more = id ~= derived and { 'alias', derived } or nil
local dead_id = died(k, now, id, r, e, { json = ARGV[3] .. id .. ARGV[4], error = ARGV[5],
  fp = ARGV[6], more = more }, working, 'moved')
tally(minutes, hours, counters, now, { x = 1 })
return dead_id
