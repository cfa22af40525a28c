-- Give back tasks in hand, unfinished: handed over inside the pending list, in place.
-- KEYS: tasks_stream tasks attempts results done counters settings events
-- ARGV: group, consumer, topic, results to keep, then per task: sid, n, id
-- Returns per task 'ok' | 'cancelled' (it was asked for while it ran: the task ends here)
--   | 'fenced' (not this consumer's any more).
local group, me, topic, out = ARGV[1], ARGV[2], ARGV[3], {}
local k = { tasks = tasks, attempts = attempts, results = results, done = done,
            counters = counters, events = events }
of_their_types({ tasks, attempts, counters }, { results }, { done })
for i = 5, #ARGV, 3 do
  local sid, fence_n, id = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local text = call('HGET', tasks, id)
  local r = text and read_record(text)
  local became = 'fenced'
  if r and r.sid == sid and r.n == fence_n and holds(tasks_stream, group, sid, me) then
    if match(r.flags, 'c') then
      local e = entry(tasks_stream, sid)
      local row = call('XPENDING', tasks_stream, group, sid, sid, 1)[1]
      call('HDEL', tasks, '')
      cancelled(k, topic, id, r, e, bound_of(call('HGET', settings, 'results_keep'), ARGV[4]),
        now_ms(), row)
      leave(tasks_stream, group, sid)
      became = 'cancelled'
    else
      call('XCLAIM', tasks_stream, group, HANDED, 0, sid, 'JUSTID')
      r.n = r.n + 1
      call('HSET', tasks, id, write_record(r))
      became = 'ok'
    end
  end
  out[#out + 1] = became
end
return out
