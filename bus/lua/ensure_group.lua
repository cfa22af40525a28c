-- Create a consumer group at id 0 and, unless it observes, name it the working group.
-- A group made to observe stays an observer.
-- KEYS: tasks_stream settings
-- ARGV: group, '1' to observe only or '2' to join whatever group works already
-- Returns {1 created or 0 existing, working group or ''}.
call('HDEL', settings, '')
local name = ARGV[1]
if ARGV[2] == '2' then name = call('HGET', settings, 'group') or name end
local mark = 'observer:' .. name
if ARGV[2] == '1' then
  if call('HGET', settings, 'group') ~= name then call('HSET', settings, mark, '1') end
elseif call('HEXISTS', settings, mark) == 0 then
  call('HSETNX', settings, 'group', name)
end
local made = redis.pcall('XGROUP', 'CREATE', tasks_stream, name, '0', 'MKSTREAM')
if type(made) == 'table' and made.err and not match(made.err, 'BUSYGROUP') then
  return made
end
local created = (type(made) == 'table' and made.err) and 0 or 1
return { created, call('HGET', settings, 'group') or '' }
