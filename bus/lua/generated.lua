-- Count what came of one flight of the gateway, in the ring of the last 60 minutes.
-- KEYS: <figures> <running>
-- ARGV: its id, then the numbers to add to those of this minute, always as many
-- Returns 1.
-- A count whose reply was lost may be sent again and count twice: it is no ledger.
call('HDEL', running, ARGV[1])
local minute = floor(now_ms() / 60000)
local slot = int(minute % 60)
local before = {}
for number in gmatch(call('HGET', figures, slot) or '', '%d+') do
  before[#before + 1] = tonumber(number)
end
local row = { int(minute) }
for i = 2, #ARGV do
  local same = before[1] == minute and before[i] or 0
  row[i] = int(same + tonumber(ARGV[i]))
end
call('HSET', figures, slot, table.concat(row, ' '))
call('EXPIRE', figures, 7200)
return 1
