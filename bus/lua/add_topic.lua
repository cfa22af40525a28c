-- Make a topic known before its first task.
-- KEYS: topics
-- ARGV: topic, most topics the mesh may know
-- Returns 1 known now, 0 refused because the mesh is at its bound.
if call('SISMEMBER', topics, ARGV[1]) == 1 then return 1 end
if call('SCARD', topics) >= tonumber(ARGV[2]) then return 0 end
call('SADD', topics, ARGV[1])
return 1
