-- What the leader of a flight has told since, and that somebody still follows.
-- KEYS: <flight> <lines>
-- ARGV: id of who is followed, how many lines are known, most lines to give
-- Returns {1 while that one leads, else 0, lines...}.
local id, known, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
call('HDEL', flight, '')
local leads = call('HGET', flight, 'id') == id
if leads then call('HSET', flight, 'followed', int(now_ms())) end
local told = call('LRANGE', lines, known, known + most - 1)
return { leads and 1 or 0, unpack(told) }
