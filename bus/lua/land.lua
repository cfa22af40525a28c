-- End a flight, unless those who follow still need its leader.
-- KEYS: <flight> <lines>
-- ARGV: id, how many lines followers are to find; -1: the leader would give up,
--       ms without a look after which a follower counts as gone,
--       ms for which it stays known that one ended
-- Returns 1 if the flight has ended, 0 if followers lack lines or want it to go on.
local id, total, gone_ms, known_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
if call('HGET', flight, 'id') ~= id then return 1 end
local seen = tonumber(call('HGET', flight, 'followed') or '')
if seen then
  if total < 0 and now_ms() - seen < gone_ms then return 0 end
  if call('LLEN', lines) < total then return 0 end
end
call('DEL', flight)
-- Who boards next may have looked for the kept answer a moment too early.
if total >= 0 then
  call('HSET', flight, 'ended', 1)
  call('PEXPIRE', flight, known_ms)
end
return 1
