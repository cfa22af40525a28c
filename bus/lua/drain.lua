-- Tell an agent to take nothing more, finish what it has in hand, and end.
-- KEYS: <record> draining
-- ARGV: agent id, consumer that is meant: a process, or a registration by hand
-- Returns 1 it will hear of it with its next beat, 0 it is not registered (any more).
call('HDEL', draining, '')
if call('EXISTS', record) == 0 then return 0 end
call('HSET', draining, ARGV[1], ARGV[2])
return 1
