-- Drop the oldest records of agents that are gone.
-- KEYS: agents gone
-- ARGV: seconds kept, most kept, then agent ids whose last record is to go
-- Returns expired consumers that were dropped from the index.
local now = now_ms()
local old = call('ZRANGEBYSCORE', agents, '-inf', int(now - ARGV[1] * 1000), 'LIMIT', 0, 500)
local over = call('ZCARD', agents) - #old - tonumber(ARGV[2])
if over > 0 then
  local more = call('ZRANGEBYSCORE', agents, '-inf', int(now), 'LIMIT', #old,
    math.min(over, 500))
  for i = 1, #more do old[#old + 1] = more[i] end
end
if #old > 0 then call('ZREM', agents, unpack(old)) end
for i = 3, #ARGV do call('HDEL', gone, ARGV[i]) end
return old
