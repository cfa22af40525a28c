-- Delete all that a topic was, in one step; tasks that came meanwhile begin a new one.
-- KEYS: tasks_stream tasks delayed parked attempts results dead dead_index done bin seen0 seen1 minutes hours errors counters settings events audit
-- Returns {1 deleted or 0 there are dead letters left, live tasks of the new topic, or
--   entries that nobody has read}.
-- Nothing accepted is lost between the purge before this and this: either a task is here
-- already, and stays, or it finds a topic that never was. So does what somebody else wrote.
if call('XLEN', dead) > 0 then return { 0, call('HLEN', tasks) } end
local live, group = call('HLEN', tasks), call('HGET', settings, 'group')
local unread = redis.pcall('XLEN', tasks_stream)
if type(unread) ~= 'number' then unread = 0 end
call('UNLINK', results, dead, dead_index, done, bin, seen0, seen1, minutes, hours, errors,
  counters, settings, events, audit)
if live + unread == 0 then
  call('UNLINK', tasks_stream, tasks, delayed, parked, attempts)
else
  call('HSET', counters, 'accepted', live)
  if group then
    call('HSET', settings, 'group', group)
    call('HSET', counters, 'group', group)
  end
end
return { 1, live > 0 and live or unread }
