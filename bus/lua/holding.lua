-- Who may hold tasks of the working group.
-- Reads only.
-- KEYS: tasks_stream settings
-- ARGV: '1' for all consumers, else none where nobody holds anything
-- Returns {group or '', rows of XINFO CONSUMERS}.
local working = call('HGET', settings, 'group')
if not working then return { '', {} } end
if ARGV[1] ~= '1' then
  local held = redis.pcall('XPENDING', tasks_stream, working)
  if held.err or held[1] == 0 then return { working, {} } end
end
-- Where the group is gone its next reader makes it again.
local rows = redis.pcall('XINFO', 'CONSUMERS', tasks_stream, working)
return { working, rows.err and {} or rows }
