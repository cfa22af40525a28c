-- Let only the driver with this fence go on with the letters of a topic, or none.
-- KEYS: <todo> <out> <facts> <told>
-- ARGV: fence, seconds they are kept, '1' to drop what is left to do, '2' to drop all
-- Returns 1, or 0 where a newer fence stands already.
local stands = tonumber(call('HGET', facts, 'fence') or '0')
call('HDEL', facts, '')
if ARGV[3] == '2' then
  call('UNLINK', todo, out, facts, told)
  return 1
end
if tonumber(ARGV[1]) < stands then return 0 end
call('HSET', facts, 'fence', ARGV[1])
if ARGV[3] == '1' then
  call('HINCRBY', facts, 'left', call('ZCARD', todo))
  call('UNLINK', todo)
end
for _, key in ipairs({ todo, out, facts, told }) do call('EXPIRE', key, ARGV[2]) end
return 1
