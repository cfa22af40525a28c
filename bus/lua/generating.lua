-- A sign of life of generations that run in one process.
-- KEYS: <running>
-- ARGV: ms that the sign holds, then of each generation its id and its row (JSON)
-- Returns the ids of those that somebody wants to end.
-- Rows of processes that died are taken off here, so as many stay as there are places.
local hold_ms, now = tonumber(ARGV[1]), now_ms()
call('HDEL', running, '')
local ends = {}
for i = 2, #ARGV, 2 do
  local mark = match(call('HGET', running, ARGV[i]) or '', '^%d+|(1)|')
  if mark then ends[#ends + 1] = ARGV[i] end
  local row = int(now + hold_ms) .. (mark and '|1|' or '|0|') .. ARGV[i + 1]
  call('HSET', running, ARGV[i], row)
end
local rows = call('HGETALL', running)
for i = 1, #rows, 2 do
  local until_ms = tonumber(match(rows[i + 1], '^(%d+)|'))
  if not until_ms or until_ms < now then call('HDEL', running, rows[i]) end
end
call('PEXPIRE', running, hold_ms)
return ends
