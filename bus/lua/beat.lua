-- Renew an agent's registration; never creates one.
-- KEYS: <record> agents gone draining
-- ARGV: agent id, consumer, ttl ms, record json ('' keeps the stored one)
-- Returns {1 renewed, 2 renewed and told to drain, 0 not registered (any more); the record
--   it took the place of, where that is of another process than this one, else ''; how
--   many are registered}.
call('HDEL', gone, '')
local stored = call('GET', record)
if not stored then return { 0, '', 0 } end
-- An agent by hand is its own consumer: who beats for it cannot be told.
local ours = ARGV[1] == ARGV[2]
  or find(stored, '"consumer":"' .. ARGV[2] .. '"', 1, true)
local now, json = now_ms(), ARGV[4] == '' and stored or ARGV[4]
call('SET', record, json, 'PX', ARGV[3])
call('ZADD', agents, int(now + tonumber(ARGV[3])), ARGV[2])
call('HSET', gone, ARGV[1], int(now) .. '|' .. ARGV[3] .. '|' .. json)
return { call('HGET', draining, ARGV[1]) == ARGV[2] and 2 or 1, ours and '' or stored,
  call('ZCOUNT', agents, int(now), '+inf') }
