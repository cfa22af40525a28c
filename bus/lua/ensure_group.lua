-- Create a consumer group at id 0 and, unless it observes, name it the working group.
-- A group made to observe stays an observer.
-- KEYS: tasks_stream settings
-- ARGV: group, '1' to observe only
-- Returns {1 created or 0 existing, working group or ''}.
call('HDEL', settings, '')
local mark = 'observer:' .. ARGV[1]
if ARGV[2] == '1' then
  if call('HGET', settings, 'group') ~= ARGV[1] then call('HSET', settings, mark, '1') end
elseif call('HEXISTS', settings, mark) == 0 then
  call('HSETNX', settings, 'group', ARGV[1])
end
local made = redis.pcall('XGROUP', 'CREATE', tasks_stream, ARGV[1], '0', 'MKSTREAM')
if type(made) == 'table' and made.err and not match(made.err, 'BUSYGROUP') then
  return made
end
local created = (type(made) == 'table' and made.err) and 0 or 1
return { created, call('HGET', settings, 'group') or '' }
