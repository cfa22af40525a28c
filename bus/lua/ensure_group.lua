-- Create a consumer group at id 0 and, unless it observes, name it the working group.
-- A group made to observe stays an observer.
-- KEYS: tasks_stream settings counters events
-- ARGV: group, '1' to observe only or '2' to join whatever group works already
-- Returns {1 created or 0 existing, working group or '', flat "what name" of what was
--   mended}.
-- The counters know the working group as well. So settings that somebody deleted get it
-- back, and a working group that has to be made is known to have been destroyed.
of_their_types({ settings, counters }, {}, {})
call('XLEN', tasks_stream)
call('HDEL', settings, '')
local k = { stream = tasks_stream, counters = counters, events = events, told = {} }
local known = call('HGET', counters, 'group')
local working = call('HGET', settings, 'group')
if known and not working then
  regrouped(k, settings, 'settings', known)
  working = known
end
local name, was = ARGV[1], working
if ARGV[2] == '2' then name = working or name end
local mark = 'observer:' .. name
if ARGV[2] == '1' then
  if working ~= name then call('HSET', settings, mark, '1') end
elseif not working and call('HEXISTS', settings, mark) == 0 then
  call('HSET', settings, 'group', name)
  working = name
end
local made = redis.pcall('XGROUP', 'CREATE', tasks_stream, name, '0', 'MKSTREAM')
if type(made) == 'table' and made.err and not match(made.err, 'BUSYGROUP') then
  return made
end
local created = (type(made) == 'table' and made.err) and 0 or 1
if created == 1 and was == name then regrouped(k, settings, 'group', name) end
if working and working ~= known then call('HSET', counters, 'group', working) end
return { created, working or '', k.told }
