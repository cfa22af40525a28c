-- What a task waits for, as far as its topic knows.
-- Reads only.
-- KEYS: tasks_stream tasks settings minutes
-- ARGV: id, most entries to count, ms after which a reader is no sign of life any more
-- Returns {now, paused 0/1, max attempts of the topic or '', readers alive, rate of ends
--   in this and the last minute, ms of these, holder or '', its idle ms, tasks ahead,
--   1 if there are more ahead than were counted}.
-- Entries are counted by looking at them, up to a number and 2 MB: sids and lag tell
-- nothing once an entry was deleted.
local id, most, alive_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()
local set = call('HMGET', settings, 'paused', 'max_attempts', 'group')
local group = set[3]

local minute, ends = floor(now / 60000), 0
for back = 0, 1 do
  local row = call('HGET', minutes, tostring((minute - back) % 180))
  if row and match(row, '^%d+') == tostring(minute - back) then
    for _, name in ipairs({ 'd', 't', 'x' }) do
      ends = ends + tonumber(match(row, ' ' .. name .. '=(%d+)') or 0)
    end
  end
end

local readers, last = 0, last_delivered(tasks_stream, group)
if group then
  local rows = redis.pcall('XINFO', 'CONSUMERS', tasks_stream, group)
  for _, flat in ipairs(rows.err and {} or rows) do
    local facts = facts_of(flat)
    if reads_by_hand(facts, alive_ms) then readers = readers + 1 end
  end
end

local who, idle, ahead, more = '', 0, 0, 0
local text = call('HGET', tasks, id)
local r = text and read_record(text)
if r and r.sid ~= '' then
  local rows = group and redis.pcall('XPENDING', tasks_stream, group, r.sid, r.sid, 1) or {}
  if not rows.err and rows[1] then who, idle = rows[1][2], rows[1][3] end
  if who == '' or who == HANDED then
    -- Those handed over are taken first, in their order; then entries nobody has read.
    local to = who == HANDED and '(' .. r.sid or '+'
    rows = group and redis.pcall('XPENDING', tasks_stream, group, '-', to, most, HANDED) or {}
    ahead = rows.err and 0 or #rows
    local bytes = 0
    while who == '' and ahead < most and bytes < 2000000 do
      local step = math.min(100, most - ahead)
      rows = call('XRANGE', tasks_stream, '(' .. last, '(' .. r.sid, 'COUNT', step)
      for i = 1, #rows do
        last = rows[i][1]
        for j = 1, #rows[i][2] do bytes = bytes + #rows[i][2][j] end
      end
      ahead = ahead + #rows
      if #rows < step then break end
      if bytes >= 2000000 then more = 1 end
    end
    if ahead >= most then more = 1 end
  end
end
return { now, set[1] == '1' and 1 or 0, set[2] or '', readers, ends,
  60000 + now % 60000, who, idle, ahead, more }
