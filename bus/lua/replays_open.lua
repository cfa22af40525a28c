-- Write down a bulk replay whose letters are frozen, unless too many are open already.
-- KEYS: replays open_replays <job> ...
-- The further key, of a request that has a name, tells what it made.
-- ARGV: id, how many may be open, seconds it is kept untouched, seconds a name is
--       remembered, what stands under it, then its fields and values
-- Returns {'made'} (also by a repeat), {'full'} refused, or {'known', what stands under
-- the name} where an earlier request of that name made one.
local id, request = ARGV[1], more[1]
if call('EXISTS', job) == 1 then return {'made'} end
local known = request and call('GET', request)
if known then return {'known', known} end
if call('ZCARD', open_replays) >= tonumber(ARGV[2]) then return {'full'} end
call('HSET', job, 'fence', 0, 'until', 0, unpack(ARGV, 6))
call('EXPIRE', job, ARGV[3])
if request then call('SET', request, ARGV[5], 'EX', ARGV[4]) end
local now = int(now_ms())
call('HSET', job, 'created', now)
call('ZADD', open_replays, now, id)
call('ZADD', replays, now, id)
return {'made'}
