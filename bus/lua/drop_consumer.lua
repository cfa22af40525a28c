-- Remove a consumer that has been silent and holds nothing.
-- KEYS: tasks_stream
-- ARGV: group, consumer, least ms of silence
-- Returns 1 removed, 0 it holds tasks or was heard of. In one step: a claim in between
--   would lose its rows with the consumer.
local rows = redis.pcall('XINFO', 'CONSUMERS', tasks_stream, ARGV[1])
for _, flat in ipairs(rows.err and {} or rows) do
  local facts = facts_of(flat)
  if facts.name == ARGV[2] and facts.pending == 0 and facts.idle >= tonumber(ARGV[3]) then
    call('XGROUP', 'DELCONSUMER', tasks_stream, ARGV[1], ARGV[2])
    return 1
  end
end
return 0
