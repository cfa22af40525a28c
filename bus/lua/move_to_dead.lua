-- A hand-written agent gives up on an entry: ack, delete, letter.
-- KEYS: tasks_stream tasks done attempts dead dead_index errors counters settings minutes hours events <group>
-- ARGV: entry id, id for an unknown entry, letter json head and tail around the id,
--       error json, fingerprint
-- Returns the dead entry id; for a letter that exists already, that one's; '' where it was
-- replayed or discarded since.
local sid, derived = ARGV[1], ARGV[2]
of_their_types({ tasks, attempts, dead_index, errors, counters, settings, minutes, hours },
  { dead }, { group })
local e = entry(tasks_stream, sid)
local k = { stream = tasks_stream, tasks = tasks, done = done, counters = counters,
            dead = dead, dead_index = dead_index, group = group, errors = errors }
local r = e and record_of(k, sid, e)
local id = r and e.id or derived
if not r then
  local exists = call('HGET', dead_index, id) or call('HGET', dead_index, 'alias:' .. id)
  if exists then return exists end
  -- Its letter was replayed or discarded since, and the task goes on without this entry.
  if call('HEXISTS', tasks, id) == 1 or call('ZSCORE', done, id) then return '' end
  call('HDEL', tasks, '')
  call('HINCRBY', counters, 'adopted', 1)
  r = { sid = sid, attempt = 0, epoch = 0, n = 0, lost = 0, flags = '', options = '' }
end
local working = call('HGET', settings, 'group')
local who = working and holder(tasks_stream, working, sid)
who = who and who ~= HANDED and '"' .. match(who, '^[^#]*'):gsub('[^%w:._@-]', '?') .. '"'
call('HDEL', tasks, '')
local meta = with_enqueued(e and e.meta or '', sid) .. ',epoch=' .. int(r.epoch)
if r.options ~= '' then meta = meta .. ',' .. r.options end
local now = now_ms()
local fence = sid .. '.' .. int(r.n)
-- When it began only its agent knows.
remember(attempts, id, '{"epoch":' .. int(r.epoch) .. ',"attempt":' .. int(r.attempt + 1)
  .. ',"agent":' .. (who or 'null') .. ',"fence":"' .. fence .. '","finished_at":"'
  .. iso(now) .. '","error":' .. ARGV[5] .. '}')
local history = call('HGET', attempts, id)
local dead_id = bury(k, now, { id = id, json = ARGV[3] .. id .. ARGV[4], error = ARGV[5],
  fp = ARGV[6], fence = fence, attempts = history, meta = meta,
  -- So that a repeat, which knows the entry only, finds the same letter.
  more = id ~= derived and { 'alias', derived } or nil })
if working then redis.pcall('XACK', tasks_stream, working, sid) end
call('XDEL', tasks_stream, sid)
call('HDEL', tasks, id)
call('HDEL', attempts, id)
call('HINCRBY', counters, 'died', 1)
tally(minutes, hours, counters, now, { x = 1 })
note(events, 'dead', id, 'moved')
return dead_id
