-- Where the stream of tasks of one topic ends, for who waits for what comes behind.
-- Reads only.
-- KEYS: tasks_stream
-- ARGV: none
-- Returns the last id ever added; 0-0 without a stream, '' if the key is something else.
local info = redis.pcall('XINFO', 'STREAM', tasks_stream)
if info.err then return call('EXISTS', tasks_stream) == 1 and '' or '0-0' end
return facts_of(info)['last-generated-id']
