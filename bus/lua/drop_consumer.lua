-- Remove a consumer that is gone and holds nothing.
-- KEYS: tasks_stream
-- ARGV: group, consumer
-- Returns 1 removed, 0 it holds tasks. In one step: a claim in between would lose its
-- rows with the consumer.
local rows = redis.pcall('XPENDING', tasks_stream, ARGV[1], '-', '+', 1, ARGV[2])
if rows.err or #rows > 0 then return 0 end
call('XGROUP', 'DELCONSUMER', tasks_stream, ARGV[1], ARGV[2])
return 1
