-- Make a topic known before its first task.
-- KEYS: topics
-- ARGV: topic, most topics the mesh may know, '1' for an agent, which must be able to
--       start without memory: the no-op release lets the rest through at maxmemory
-- Returns 1 known now, 0 refused because the mesh is at its bound.
if call('SISMEMBER', topics, ARGV[1]) == 1 then return 1 end
if ARGV[3] == '1' then call('SREM', topics, '') end
if call('SCARD', topics) >= tonumber(ARGV[2]) then return 0 end
call('SADD', topics, ARGV[1])
return 1
