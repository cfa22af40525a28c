-- Lead a flight of the gateway unless somebody leads it; then follow them.
-- KEYS: <flight>
-- ARGV: an id of our own, ms that a lead holds without a sign of life
-- Returns {id of who leads: our own, or whom to follow; 1 if one ended just before us}.
local own, lease_ms = ARGV[1], ARGV[2]
local leads = call('HGET', flight, 'id')
-- Who follows counts once he looks: who boards may be refused yet.
if leads and leads ~= own then return { leads, 0 } end
-- A repeat of ours says the same as the call whose answer was lost.
call('HSET', flight, 'id', own)
call('PEXPIRE', flight, lease_ms)
return { own, call('HEXISTS', flight, 'ended') }
