-- A sign of life of who leads a flight, with lines for those who follow.
-- KEYS: <flight> <lines>
-- ARGV: id, ms that the lead holds from now on, ms that the lines stay,
--       how many lines came before these, lines...
-- Returns 1 if somebody follows, else 0; -1 if the lead is another's by now.
-- Lines that are there already are not added again, so a repeat changes nothing.
local id, lease_ms, stay_ms, before = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if call('HGET', flight, 'id') ~= id then return -1 end
-- The release in front lets this pass at maxmemory: who follows is waiting for it.
call('HDEL', flight, '')
call('PEXPIRE', flight, lease_ms)
local known = call('LLEN', lines) - before
for i = 5 + math.max(known, 0), #ARGV do call('RPUSH', lines, ARGV[i]) end
call('PEXPIRE', lines, stay_ms)
return call('HGET', flight, 'followed') and 1 or 0
