-- Give back tasks in hand, unfinished: handed over inside the pending list, in place.
-- KEYS: tasks_stream tasks
-- ARGV: group, consumer, then per task: sid, n, id
-- Returns how many were handed over; the others were not this consumer's any more.
local group, me, handed = ARGV[1], ARGV[2], 0
for i = 3, #ARGV, 3 do
  local sid, fence_n, id = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local text = call('HGET', tasks, id)
  local r = text and read_record(text)
  if r and r.sid == sid and r.n == fence_n
      and holds(tasks_stream, group, sid, me) then
    call('XCLAIM', tasks_stream, group, HANDED, 0, sid, 'JUSTID')
    r.n = r.n + 1
    call('HSET', tasks, id, write_record(r))
    handed = handed + 1
  end
end
return handed
