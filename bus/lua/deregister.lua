-- End an agent's registration; rows it left behind are free at once.
-- KEYS: <record> agents
-- ARGV: consumer
-- Returns 1 it was registered, 0 it was not.
local was = call('DEL', record)
call('ZADD', agents, 'XX', int(now_ms()), ARGV[1])
return was
