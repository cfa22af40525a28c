-- Lead a flight of the gateway unless somebody leads it; then follow them.
-- KEYS: <flight>
-- ARGV: an id of our own, ms that a lead holds without a sign of life
-- Returns the id of who leads: our own, or whom to follow.
local own, lease_ms = ARGV[1], ARGV[2]
local leads = call('HGET', flight, 'id')
if leads then
  if leads ~= own then call('HSET', flight, 'followed', int(now_ms())) end
  return leads
end
-- What somebody else wrote there, without a leader, ends with this lead.
call('HSET', flight, 'id', own)
call('PEXPIRE', flight, lease_ms)
return own
