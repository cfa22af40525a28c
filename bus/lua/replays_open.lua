-- Write down a bulk replay whose letters are frozen, unless too many are open already.
-- KEYS: replays open_replays <job>
-- ARGV: id, how many may be open, seconds it is kept untouched, then its fields and values
-- Returns 1 written down (also by a repeat), 0 refused.
local id = ARGV[1]
if call('EXISTS', job) == 1 then return 1 end
if call('ZCARD', open_replays) >= tonumber(ARGV[2]) then return 0 end
call('HSET', job, 'fence', 0, 'until', 0, unpack(ARGV, 4))
call('EXPIRE', job, ARGV[3])
local now = int(now_ms())
call('HSET', job, 'created', now)
call('ZADD', open_replays, now, id)
call('ZADD', replays, now, id)
return 1
