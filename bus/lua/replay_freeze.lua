-- Write down which letters of a topic a bulk replay is of, some hundreds a call.
-- KEYS: <todo> <facts>
-- ARGV: seconds they are kept, rank of the first, then each as `entry id task id`
-- Returns how many there are now. A repeat adds none.
local rank = tonumber(ARGV[2])
local flat = {}
for i = 3, #ARGV do
  flat[#flat + 1] = int(rank + i - 3)
  flat[#flat + 1] = ARGV[i]
end
call('ZADD', todo, unpack(flat))
call('HSET', facts, 'frozen', call('ZCARD', todo))
call('EXPIRE', todo, ARGV[1])
call('EXPIRE', facts, ARGV[1])
return call('ZCARD', todo)
