-- Change what an agent's record says, unless it was changed since it was read.
-- KEYS: <record> gone
-- ARGV: agent id, the record as it was read, as it is to be
-- Returns the record as it is now, '' where the registration has ended: the one wanted, or
--   another to begin anew with.
-- The registration lasts as long as before: a beat since then is not undone.
call('HDEL', gone, '')
local stored = call('GET', record) or ''
if stored ~= ARGV[2] then return stored end
call('SET', record, ARGV[3], 'KEEPTTL')
local times = match(call('HGET', gone, ARGV[1]) or '', '^%d+|%d+|')
if times then call('HSET', gone, ARGV[1], times .. ARGV[3]) end
return ARGV[3]
