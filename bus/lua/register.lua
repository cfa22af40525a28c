-- Register an agent, or renew its registration whole.
-- KEYS: <record> agents gone draining
-- ARGV: agent id, consumer, ttl ms, record json
-- Returns the expiry, ms on the server's clock.
-- A drain was meant for one process, or for one registration by hand: the next is free.
call('HDEL', gone, '')
local now = now_ms()
local told = call('HGET', draining, ARGV[1])
local by_hand = ARGV[1] == ARGV[2]
if told and (told ~= ARGV[2] or by_hand and call('EXISTS', record) == 0) then
  call('HDEL', draining, ARGV[1])
end
local expiry = now + tonumber(ARGV[3])
call('SET', record, ARGV[4], 'PX', ARGV[3])
call('ZADD', agents, int(expiry), ARGV[2])
call('HSET', gone, ARGV[1], int(now) .. '|' .. ARGV[3] .. '|' .. ARGV[4])
return expiry
