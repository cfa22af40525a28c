-- Register an agent, or renew its registration whole.
-- KEYS: <record> agents gone
-- ARGV: agent id, consumer, ttl ms, record json
-- Returns the expiry, ms on the server's clock.
call('HDEL', gone, '')
local now = now_ms()
local expiry = now + tonumber(ARGV[3])
call('SET', record, ARGV[4], 'PX', ARGV[3])
call('ZADD', agents, int(expiry), ARGV[2])
call('HSET', gone, ARGV[1], int(now) .. '|' .. ARGV[3] .. '|' .. ARGV[4])
return expiry
