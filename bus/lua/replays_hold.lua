-- Take a bulk replay to drive it, or keep it; of all drivers one holds it.
-- KEYS: <job>
-- ARGV: driver, ms until another may take it
-- Returns its fields, flat; {} if it is gone or another driver holds it.
-- Whoever takes it from another, or after somebody changed its course, gets a new fence:
-- what the holder before has under way is refused from then on.
local now = now_ms()
local had = call('HMGET', job, 'driver', 'until')
if not had[2] then return {} end
if had[1] and had[1] ~= ARGV[1] and tonumber(had[2]) > now then return {} end
call('HDEL', job, '')
if had[1] ~= ARGV[1] then call('HINCRBY', job, 'fence', 1) end
call('HSET', job, 'driver', ARGV[1], 'until', int(now + ARGV[2]))
return call('HGETALL', job)
