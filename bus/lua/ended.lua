-- One page of a topic's result rows, newest first, of one state or of all.
-- Reads only.
-- KEYS: results
-- ARGV: entry id to continue below ('' from the newest), how many, state ('' all)
-- Returns {entry id to continue below or '', flat entry id, id, row, epoch, attempts}. A
--   look covers 2,000 rows and 4 MB at most, so a page may be short and still name where
--   to go on.
-- Only rows in our own shape tell their state here; what is none of ours counts as done.
local from, want, state = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local out, count, looked, bytes = {}, 0, 0, 0
while true do
  local top = from == '' and '+' or '(' .. from
  local rows = call('XREVRANGE', results, top, '-', 'COUNT', 50)
  for i = 1, #rows do
    local id, json
    local epoch, lines = '', ''
    from = rows[i][1]
    for j = 1, #rows[i][2], 2 do
      if rows[i][2][j] == 'id' then id = rows[i][2][j + 1] end
      if rows[i][2][j] == 'json' then json = rows[i][2][j + 1] end
      if rows[i][2][j] == 'epoch' then epoch = rows[i][2][j + 1] end
      if rows[i][2][j] == 'attempts' then lines = rows[i][2][j + 1] end
    end
    if id and json then
      bytes = bytes + #json + #lines
      local is = match(json:sub(1, 300),
        '^{"id":"[^"]*","topic":"[^"]*","state":"([^"]*)"') or 'done'
      if is ~= 'cancelled' and is ~= 'discarded' then is = 'done' end
      if state == '' or is == state then
        local at = #out
        out[at + 1], out[at + 2], out[at + 3] = from, id, json
        out[at + 4], out[at + 5] = epoch, lines
        count = count + 1
      end
    end
    looked = looked + 1
    if count == want or looked == 2000 or bytes > 4000000 then return { from, out } end
  end
  if #rows < 50 then return { '', out } end
end
