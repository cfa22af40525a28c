-- Have a generation end: whoever runs it hears of it with its next sign of life.
-- KEYS: <running>
-- ARGV: its id
-- Returns 1 if it runs, else 0. A repeat changes nothing.
call('HDEL', running, '')
local until_ms, row = match(call('HGET', running, ARGV[1]) or '', '^(%d+)|%d|(.*)$')
if not until_ms or tonumber(until_ms) < now_ms() then return 0 end
call('HSET', running, ARGV[1], until_ms .. '|1|' .. row)
return 1
