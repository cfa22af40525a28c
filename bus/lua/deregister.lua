-- End an agent's registration; rows it left behind are free at once.
-- KEYS: <record> agents gone draining
-- ARGV: consumer, agent id
-- Returns 1 it was registered, 0 it was not.
local was = call('DEL', record)
call('HDEL', draining, ARGV[2])
call('ZADD', agents, 'XX', int(now_ms()), ARGV[1])
-- Its last record stays for pages, with nothing left of its time.
local seen, json = match(call('HGET', gone, ARGV[2]) or '', '^(%d+)|%d+|(.*)$')
if seen then call('HSET', gone, ARGV[2], seen .. '|0|' .. json) end
return was
