-- One page of a topic's live tasks from one of the places where they are.
-- Reads only.
-- KEYS: tasks_stream tasks delayed parked attempts settings
-- ARGV: place ('running', 'handed', 'fresh' or 'delayed'), where to go on ('' from the
--       first; a sid, or 'due id' of the delayed), how many tasks at most
-- Returns {where to go on or '', flat id, record, json, meta, due or '', holder or '',
--   attempts}. A look covers 1,000 rows and 4 MB at most, so a page may be short (or
--   empty) and still name where to go on.
local place, from, want = ARGV[1], ARGV[2], tonumber(ARGV[3])
local ROWS, BYTES = 1000, 4000000
local group = call('HGET', settings, 'group')
local out, count, bytes = {}, 0, 0

local function give(id, text, json, meta, due, who)
  local at = count * 7
  out[at + 1], out[at + 2], out[at + 3], out[at + 4] = id, text, json, meta
  out[at + 5], out[at + 6] = due, who
  out[at + 7] = call('HGET', attempts, id) or ''
  count, bytes = count + 1, bytes + #json
end

-- An entry stands for a task only while the record names it.
local function give_entry(sid, e, who)
  local text = e and call('HGET', tasks, e.id)
  local r = text and read_record(text)
  if r and r.sid == sid then give(e.id, text, e.json, e.meta, '', who) end
end

local function page(last)
  return { last, out }
end

local function after(bound) return bound == '' and '-' or '(' .. bound end

if place == 'delayed' then
  -- Ranks shift as tasks come and go, so a page goes on behind a due time with an id; ids
  -- of one due time are in order, without hyphens in that of any locale.
  local rank = 0
  if from ~= '' then
    local due, id = match(from, '^(%d+) (.*)$')
    local plain = id:gsub('-', '')
    local low = call('ZCOUNT', delayed, '-inf', '(' .. due)
    local high = low + call('ZCOUNT', delayed, due, due)
    while low < high do
      local mid = floor((low + high) / 2)
      local there = call('ZRANGE', delayed, mid, mid)[1]
      if there:gsub('-', '') <= plain then low = mid + 1 else high = mid end
    end
    rank = low
  end
  local rows = call('ZRANGE', delayed, rank, rank + want - 1, 'WITHSCORES')
  for i = 1, #rows, 2 do
    local score = tonumber(rows[i + 1])
    -- A time that is none stands at one of the ends; the audit mends it.
    if score > 253402300799999 then return page('') end
    local id, due = rows[i], int(math.max(score, 0))
    local text = call('HGET', tasks, id)
    local meta, json = parked_of(call('HGET', parked, id))
    if text and json then give(id, text, json, meta, due, '') end
    from = due .. ' ' .. id
    if bytes > BYTES then return page(from) end
  end
  return page(#rows == want * 2 and from or '')
end

if place ~= 'fresh' then
  -- Rows of the group's pending list: those handed over wait, all others run.
  if not group then return page('') end
  local looked = 0
  while true do
    local step = math.min(100, ROWS - looked)
    local rows
    if place == 'handed' then
      rows = redis.pcall('XPENDING', tasks_stream, group, after(from), '+', step, HANDED)
    else
      rows = redis.pcall('XPENDING', tasks_stream, group, after(from), '+', step)
    end
    if rows.err then return page('') end
    for i = 1, #rows do
      from = rows[i][1]
      if place == 'handed' or rows[i][2] ~= HANDED then
        give_entry(from, entry(tasks_stream, from), rows[i][2])
      end
      if count == want or bytes > BYTES then return page(from) end
    end
    looked = looked + #rows
    if #rows < step then return page('') end
    if looked >= ROWS then return page(from) end
  end
end

-- Entries nobody has read yet: what lies behind the group's last delivery.
local last = last_delivered(tasks_stream, group)
-- What was delivered since the last page does not come again as waiting.
local function parts(sid)
  local ms, seq = match(sid, '^(%d+)%-?(%d*)$')
  return tonumber(ms), tonumber(seq) or 0
end
local last_ms, last_seq = parts(last)
local from_ms, from_seq = parts(from == '' and '0-0' or from)
if from_ms < last_ms or (from_ms == last_ms and from_seq < last_seq) then from = last end
if from == '' then from = last end
local looked = 0
while true do
  local step = math.min(want, 50, ROWS - looked)
  local rows = call('XRANGE', tasks_stream, '(' .. from, '+', 'COUNT', step)
  for i = 1, #rows do
    from = rows[i][1]
    give_entry(from, as_entry(tasks_stream, from, rows[i][2]), '')
    if count == want or bytes > BYTES then return page(from) end
  end
  looked = looked + #rows
  if #rows < step then return page('') end
  if looked >= ROWS then return page(from) end
end
