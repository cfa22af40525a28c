-- Keep the lease of tasks in hand.
-- KEYS: tasks_stream tasks settings
-- ARGV: group, consumer, then per task: sid, n, id
-- Returns {now, paused 0/1, handed-over rows wait 0/1, cancelled indexes, fenced indexes,
--   consumers of the group} with indexes from 0.
-- Checks the owner first: a blind XCLAIM would steal a task back from whoever holds it
-- now.
local group, me = ARGV[1], ARGV[2]
local keep, cancelled, fenced = {}, {}, {}
for i = 3, #ARGV, 3 do
  local sid, fence_n, id = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local index = (i - 3) / 3
  local text = call('HGET', tasks, id)
  local r = text and read_record(text)
  if r and r.sid == sid and r.n == fence_n
      and holds(tasks_stream, group, sid, me) then
    keep[#keep + 1] = sid
    if match(r.flags, 'c') then cancelled[#cancelled + 1] = index end
  else
    fenced[#fenced + 1] = index
  end
end
if #keep > 0 then
  keep[#keep + 1] = 'JUSTID'
  call('XCLAIM', tasks_stream, group, me, 0, unpack(keep))
end
local rows = redis.pcall('XPENDING', tasks_stream, group, '-', '+', 1, HANDED)
local waiting = (not rows.err and #rows > 0) and 1 or 0
local consumers, groups = 0, redis.pcall('XINFO', 'GROUPS', tasks_stream)
for _, flat in ipairs(groups.err and {} or groups) do
  local facts = facts_of(flat)
  if facts.name == group then consumers = facts.consumers end
end
return { now_ms(), call('HGET', settings, 'paused') == '1' and 1 or 0, waiting,
  cancelled, fenced, consumers }
