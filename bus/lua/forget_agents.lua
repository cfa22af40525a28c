-- Drop what is kept of agents that are gone for long, the oldest first.
-- KEYS: agents gone draining
-- ARGV: seconds kept, most kept
-- Returns how many consumers and last records were dropped, up to 500 each.
-- An agent that was started again has an older consumer in the index; its record says
-- when it was heard of itself, so it stays.
local now, keep_ms, most = now_ms(), ARGV[1] * 1000, tonumber(ARGV[2])
call('HDEL', gone, '')
local old = call('ZRANGEBYSCORE', agents, '-inf', int(now - keep_ms), 'LIMIT', 0, 500)
local over = math.min(call('ZCARD', agents) - #old - most, 500 - #old)
if over > 0 then
  local more = call('ZRANGEBYSCORE', agents, '-inf', int(now), 'LIMIT', #old, over)
  for i = 1, #more do old[#old + 1] = more[i] end
end
local dropped = 0
local function forget(id, before)
  local beat, ttl = match(call('HGET', gone, id) or '', '^(%d+)|(%d+)|')
  if beat and beat + ttl > before then return end
  dropped = dropped + call('HDEL', gone, id)
  call('HDEL', draining, id)
end
for i = 1, #old do forget(agent_of(old[i]), now) end
if #old > 0 then call('ZREM', agents, unpack(old)) end
-- Records without a consumer: somebody emptied the index.
if call('HLEN', gone) > call('ZCARD', agents) then
  local some = call('HRANDFIELD', gone, 100)
  for i = 1, #some do forget(some[i], now - keep_ms) end
end
return { #old, dropped }
