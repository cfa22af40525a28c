-- Where the streams of one topic end, and how much ever passed through them.
-- Reads only.
-- KEYS: results dead events
-- ARGV: a cursor in results or '', the most entries to count after it
-- Returns per stream its last id ('' if the key holds something else), entries ever
-- added, entries held and the first of them; then the result entries after the cursor.
local out = {}
local function look(key)
  local last, added, held, first = '0-0', 0, 0, '0-0'
  local info = redis.pcall('XINFO', 'STREAM', key)
  if info.err then
    if call('EXISTS', key) == 1 then last = '' end
  else
    for i = 1, #info, 2 do
      if info[i] == 'last-generated-id' then last = info[i + 1] end
      if info[i] == 'entries-added' then added = info[i + 1] end
      if info[i] == 'length' then held = info[i + 1] end
      if info[i] == 'recorded-first-entry-id' then first = info[i + 1] end
    end
  end
  local n = #out
  out[n + 1], out[n + 2], out[n + 3], out[n + 4] = last, added, held, first
end
look(results)
look(dead)
look(events)
local rows = {}
if ARGV[1] ~= '' and out[1] ~= '' then
  rows = call('XRANGE', results, '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
end
out[#out + 1] = #rows
return out
