-- What a driver writes down of the bulk replay it holds: how far it is, how it ended.
-- KEYS: open_replays <job>
-- ARGV: id, driver, fence, state it has, state it gets, '1' to close it, seconds it is
--       kept, then more fields and values
-- Returns 1, or 0 where the driver does not hold it (any more) or its state was changed.
local had = call('HMGET', job, 'driver', 'fence', 'state')
if had[1] ~= ARGV[2] or had[2] ~= ARGV[3] or had[3] ~= ARGV[4] then return 0 end
call('HDEL', job, '')
local now = int(now_ms())
call('HSET', job, 'state', ARGV[5], 'told', now, unpack(ARGV, 8))
if ARGV[5] ~= ARGV[4] then call('HSET', job, 'ended', now) end
if ARGV[6] == '1' then call('ZREM', open_replays, ARGV[1]) end
call('EXPIRE', job, ARGV[7])
return 1
