-- Take letters off the list of a bulk replay that cannot be replayed any more, or never.
-- KEYS: <todo> <facts> <told>
-- ARGV: fence, how many are told by name, then per letter: its entry id, task id,
--       'skipped' or 'failed', why
-- Returns how many were taken off.
if call('HGET', facts, 'fence') ~= ARGV[1] then return 0 end
local count = 0
for i = 3, #ARGV, 4 do
  if call('ZREM', todo, ARGV[i] .. ' ' .. ARGV[i + 1]) == 1 then
    count = count + 1
    call('HINCRBY', facts, ARGV[i + 2], 1)
    if call('LLEN', told) < tonumber(ARGV[2]) then
      call('RPUSH', told, ARGV[i + 2] .. ' ' .. ARGV[i + 1] .. ' ' .. ARGV[i + 3])
    end
  end
end
if count > 0 then call('EXPIRE', told, math.max(call('TTL', facts), 1)) end
return count
