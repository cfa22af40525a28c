-- Enter what a topic's books are off by, so that they balance from here on.
-- KEYS: tasks dead counters events audit
-- ARGV: what they were off by when the caller looked, mark of this request
-- Returns {1 settled or 0 it is another number by now, what they are or were off by}.
-- The number is compared because a task may have been found again since: entered as
-- settled, it would be one too many. By the mark a repeated request is known.
of_their_types({ tasks, counters, audit }, {}, {})
if call('HGET', counters, 'settle_mark') == ARGV[2] then return { 1, ARGV[1] } end
local off = missing({ tasks = tasks, dead = dead, counters = counters })
if int(off) ~= ARGV[1] then return { 0, int(off) } end
call('HDEL', counters, '')
call('HINCRBY', counters, 'settled', int(off))
call('HSET', counters, 'settled_at', int(now_ms()), 'settle_mark', ARGV[2])
call('HSET', audit, 'drift', '0')
note(events, 'settled', '', fmt('%+.0f', off))
return { 1, int(off) }
