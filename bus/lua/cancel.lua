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
of_their_types({ parked, attempts, counters }, { results }, { delayed, done })
local set = call('HMGET', settings, 'group', 'results_keep')
local k = { stream = tasks_stream, tasks = tasks, delayed = delayed, parked = parked,
            attempts = attempts, results = results, done = done, counters = counters,
            events = events }
return cancel_live(k, topic, id, r, set[1], bound_of(set[2], ARGV[3]), false)
