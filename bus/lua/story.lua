-- What the event log still knows of one task.
-- Reads only.
-- KEYS: events
-- ARGV: id, ms from which on, newest entries to look at
-- Returns flat ms, event, detail; oldest first.
local rows = call('XREVRANGE', events, '+', ARGV[2], 'COUNT', ARGV[3])
local out = {}
for i = #rows, 1, -1 do
  local flat = rows[i][2]
  if flat[4] == ARGV[1] then
    out[#out + 1] = match(rows[i][1], '^%d+')
    out[#out + 1] = flat[2]
    out[#out + 1] = flat[6] or ''
  end
end
return out
