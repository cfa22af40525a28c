-- End a flight, unless those who follow still need its leader.
-- KEYS: <flight> <lines>
-- ARGV: id, how many lines followers are to find; -1: the leader would give up,
--       ms without a look after which a follower counts as gone
-- Returns 1 if the flight has ended, 0 if followers lack lines or want it to go on.
local id, total, gone_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if call('HGET', flight, 'id') ~= id then return 1 end
local seen = tonumber(call('HGET', flight, 'followed') or '')
if seen then
  if total < 0 and now_ms() - seen < gone_ms then return 0 end
  if call('LLEN', lines) < total then return 0 end
end
call('DEL', flight)
return 1
