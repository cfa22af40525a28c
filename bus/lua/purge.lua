-- Cancel the live tasks of a stretch of a topic.
-- KEYS: tasks_stream tasks delayed parked attempts results done counters settings events
-- ARGV: topic, where to go on ('0' from the first), ms since 1970 up to which tasks came
--       ('' now), which of those that run: '' none, 'ask' to stop, 'tear' out of their
--       agents' hands; results to keep
-- Returns {where to go on or '0', that ms, cancelled, asked to stop, still there}.
local topic, at, most = ARGV[1], ARGV[2], tonumber(ARGV[3]) or now_ms()
local ask, torn = ARGV[4] == 'ask', ARGV[4] == 'tear'
local set = call('HMGET', settings, 'group', 'results_keep')
local k = { stream = tasks_stream, tasks = tasks, delayed = delayed, parked = parked,
            attempts = attempts, results = results, done = done, counters = counters,
            events = events }

-- When the task was first accepted; one that came since is nobody's to purge.
local function came(id, r)
  if r.sid == '' then return tonumber(enqueued_ms(call('HGET', parked, id) or '', '')) end
  local e = entry(tasks_stream, r.sid)
  return tonumber(enqueued_ms(e and e.meta or '', r.sid))
end

of_their_types({ parked, attempts, counters }, { results }, { delayed, done })
call('HDEL', tasks, '')
local page = call('HSCAN', tasks, at, 'COUNT', 100)
local counts = { cancelled = 0, running = 0, kept = 0 }
for i = 1, #page[2], 2 do
  local id, r = page[2][i], read_record(page[2][i + 1])
  if r and came(id, r) <= most then
    local who = r.sid ~= '' and set[1] and holder(tasks_stream, set[1], r.sid)
    local what = 'kept'
    if ask or torn or not who or who == HANDED then
      what = cancel_live(k, topic, id, r, set[1], bound_of(set[2], ARGV[5]), torn)
    end
    counts[what] = counts[what] + 1
  end
end
return { page[1], int(most), counts.cancelled, counts.running, counts.running + counts.kept }
