-- Look through a stretch of a topic's dead letters and of what it remembers of ends.
-- KEYS: dead dead_index tasks_stream tasks parked done results attempts counters errors events settings bin audit <group>
-- ARGV: ms between two looks ('0' now), places to look at, topic, fingerprint and error
--       json of a lost letter, bin entries to keep
-- Returns as audit_live, then flat fingerprint, dead id of letters seen and fingerprint, ''
--   of groups seen: whoever called looks whether they fit (audit_group), since a group is
--   a key of its own; then streams with ids that are no times (renumber).
-- While the index does not name a letter, whoever sends its task again is believed: the
-- task runs, and has died before. What came later stands then, the letter is discarded.
local pace, most, topic = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local LOST = ARGV[4]
local k = { stream = tasks_stream, tasks = tasks, done = done, dead_index = dead_index,
            dead = dead, counters = counters, errors = errors, events = events,
            settings = settings, group = group, bin = bin, told = {}, seen = {} }
local now = now_ms()
local mine = walk_of(k, audit, 'dead', now, pace)
if not mine then return {} end
unlink_misfits(k, { stream = { dead, results, tasks_stream, events, bin },
  hash = { dead_index, tasks, parked, attempts, counters, errors, settings },
  zset = { done } })
local looked, bytes, groups, gone, timeless = 0, 0, {}, {}, {}

-- An id beyond the year 9999 is seen by its entry; one that was deleted by the stream's own
-- facts, which are asked for at the begin of a round only: of the letters, without which no
-- task can be given up, at each.
local begins = mine.place == 1 and mine.at == '0'
for _, stream in ipairs({ tasks_stream, dead, results, bin, events }) do
  local asks = begins and (stream == dead or mine.round % 8 == 0)
  if call('XRANGE', stream, '253402300800000', '+', 'COUNT', 1)[1]
      or asks and is_at_its_end(stream) then
    timeless[#timeless + 1] = stream
  end
end

-- Whether a stream takes an entry now. If not, what wanted to write there waits for its
-- next turn: nothing may leave its place before what it becomes is written.
local function takes_more(stream)
  if not is_at_its_end(stream) then return true end
  timeless[#timeless + 1] = stream
  return false
end

local function row_of(id)
  local score = call('ZSCORE', done, id)
  return score and ended_row(results, score, id)
end

-- Of a letter in our shape; nil where the payload is lost or somebody else wrote it.
local function payload_of(letter)
  return letter.fp ~= LOST and match(letter.json or '', '^{"id":"[^"]*","payload":(.*)}$')
end

local function is_later(since, dead_id) return (since or '') > iso(match(dead_id, '^%d+')) end

-- Whether a live task was accepted when its letter was there already: the same payload,
-- or what the letter lost. With another one nobody but a person can tell.
local function lives_again(letter, dead_id, r)
  local e = r and r.sid ~= '' and entry(tasks_stream, r.sid)
  if r and r.sid == '' then
    local meta, json = parked_of(call('HGET', parked, letter.id))
    e = json and { id = letter.id, meta = meta, json = json }
  end
  if not e or e.id ~= letter.id then return false end
  bytes = bytes + #e.json
  return is_later(iso(enqueued_ms(e.meta, r.sid)), dead_id)
    and (letter.fp == LOST or payload_of(letter) == json_of(e))
end

-- The same of a task that ended since.
local function ended_again(letter, dead_id, row)
  local _, head = find(row, '^{"id":"[^"]*","topic":"[^"]*","state":"%a+","task":')
  local since = match(row,
    '"enqueued_at":"([^"]*)","started_at":[^,]*,"finished_at":"[^"]*"}$')
  bytes = bytes + #row
  if not head or not is_later(since, dead_id) then return false end
  local rest = (payload_of(letter) or '') .. ',"result":'
  return letter.fp == LOST or row:sub(head + 1, head + #rest) == rest
end

-- Which of two letters of a task goes: it died, came again, died again. nil if it did not.
local function spare_of(a_id, a, b_id, b)
  if is_after(a_id, b_id) then a_id, a, b_id, b = b_id, b, a_id, a end
  local came = match(b.meta or '', 'e=(%d+)')
  if not came or not is_later(iso(came), a_id) then return nil end
  local json, again = payload_of(a), payload_of(b)
  if json == nil or again == nil or json and again and json ~= again then return nil end
  if again then return a_id, a end
  return b_id, b
end

local function belongs(letter, dead_id)
  if (letter.fp or '') == '' then return end
  groups[#groups + 1], groups[#groups + 2] = letter.fp, dead_id
end

-- Into the bin, and counted: its task was accepted once more than it should have been.
-- nil while the bin takes nothing, or where it is too wide for it.
local function dismiss(letter, dead_id)
  if not takes_more(bin) then return nil end
  call('HDEL', dead_index, '')
  if not kept_in_bin(k, letter, dead_id, ARGV[6]) then
    return seen_only(k, 'wide letter', letter.id)
  end
  call('XDEL', dead, dead_id)
  gone[dead_id] = true
  for _, name in ipairs({ letter.id, letter.alias and 'alias:' .. letter.alias }) do
    if call('HGET', dead_index, name) == dead_id then call('HDEL', dead_index, name) end
  end
  call('HINCRBY', counters, 'discarded', 1)
  belongs(letter, dead_id)
  mended(k, 'letter', letter.id)
  return true
end

local function index(letter, dead_id)
  call('HSET', dead_index, letter.id, dead_id)
  if letter.alias then call('HSET', dead_index, 'alias:' .. letter.alias, dead_id) end
end

local function look_at_letter(dead_id, letter)
  local id = letter.id
  if gone[dead_id] then return end -- by the look at another one of this page
  if not id or not is_uuid(id) then return end -- by hand: listed, nobody's task
  for name, value in pairs(letter) do bytes = bytes + #value end
  belongs(letter, dead_id)
  local named = call('HGET', dead_index, id)
  if named == dead_id then return end
  local other, text = named and letter_of(dead, named), call('HGET', tasks, id)
  local row = row_of(id)
  if other and other.id == id then
    local spare_id, spare = spare_of(dead_id, letter, named, other)
    if not spare_id then return seen_only(k, 'two letters', id) end
    if dismiss(spare, spare_id) and spare_id == named then index(letter, dead_id) end
  elseif text then
    if lives_again(letter, dead_id, read_record(text)) then return dismiss(letter, dead_id) end
    seen_only(k, 'live and dead', id)
  elseif row then
    if ended_again(letter, dead_id, row) then return dismiss(letter, dead_id) end
    seen_only(k, 'done and dead', id)
  else
    -- A letter that somebody wrote by hand is a task from now on.
    if missing(k) < 0 and not letter.fp then
      call('HINCRBY', counters, 'adopted', 1)
    else
      mended(k, 'letter', id)
    end
    index(letter, dead_id)
  end
end

local function look_at_index(id, dead_id)
  local letter = letter_of(dead, dead_id)
  for name, value in pairs(letter or {}) do bytes = bytes + #value end
  local alias = match(id, '^alias:(.*)$')
  if letter and alias and letter.alias == alias then return end
  if letter and letter.id ~= id and letter.alias == id then
    -- Written before these rows had a mark of their own.
    call('HDEL', dead_index, id)
    call('HSET', dead_index, 'alias:' .. id, dead_id)
    return
  end
  if letter and letter.id == id then
    if call('ZSCORE', done, id) then
      local row = row_of(id)
      if row and ended_again(letter, dead_id, row) then return dismiss(letter, dead_id) end
      if row then return seen_only(k, 'done and dead', id) end
      call('ZREM', done, id)
      mended(k, 'end', id)
    end
    return
  end
  local is_missed = is_uuid(id) and call('HEXISTS', tasks, id) == 0
    and not call('ZSCORE', done, id)
  if is_missed and not takes_more(dead) then return end
  call('HDEL', dead_index, id)
  if not is_missed or not owed(k) then return mended(k, 'letter', id) end
  -- The letter is gone and its task with it. It stays dead, and says so.
  bury(k, now, { id = id, json = '{"id":"' .. id .. '","payload":null}', error = ARGV[5],
    fp = ARGV[4], fence = '', attempts = '', meta = 'e=' .. (match(dead_id, '^%d+') or int(now)) })
  note(events, 'dead', id, 'lost')
  mended(k, 'lost', id)
end

-- A row in our shape, of a task that is neither live nor dead, and no end is remembered.
local function look_at_row(entry_id, flat)
  local id, json = flat[2], flat[4] or ''
  bytes = bytes + #json
  if flat[1] ~= 'id' or flat[3] ~= 'json' or not is_uuid(id) then return end
  local head = '{"id":"' .. id .. '","topic":"' .. topic .. '","state":"'
  if json:sub(1, #head) ~= head or call('ZSCORE', done, id)
      or call('HEXISTS', tasks, id) == 1 then
    return
  end
  local dead_id = call('HGET', dead_index, id)
  local letter = dead_id and letter_of(dead, dead_id)
  if letter and letter.id == id and ended_again(letter, dead_id, json) then
    if not dismiss(letter, dead_id) then return end
  elseif dead_id then
    return
  end
  call('ZADD', done, done_score(entry_id), id)
  mended(k, 'end', id)
end

local steps = {}

function steps.dead(at)
  local rows = call('XRANGE', dead, at == '0' and '-' or '(' .. at, '+', 'COUNT', 20)
  for i = 1, #rows do look_at_letter(rows[i][1], facts_of(rows[i][2])) end
  looked = looked + #rows
  return #rows == 20 and rows[20][1] or '0'
end

function steps.index(at)
  local page = call('HSCAN', dead_index, at, 'COUNT', 20)
  for i = 1, #page[2], 2 do look_at_index(page[2][i], page[2][i + 1]) end
  looked = looked + #page[2] / 2
  return page[1]
end

function steps.groups(at)
  local page = call('HSCAN', errors, at, 'COUNT', 20)
  for i = 1, #page[2], 2 do
    groups[#groups + 1], groups[#groups + 2] = page[2][i], ''
  end
  looked = looked + #page[2] / 2
  return page[1]
end

function steps.results(at)
  -- Rows are read only where fewer ends are remembered than there are rows.
  if at == '0' and call('ZCARD', done) >= call('XLEN', results) then return '0' end
  local rows = call('XRANGE', results, at == '0' and '-' or '(' .. at, '+', 'COUNT', 50)
  for i = 1, #rows do look_at_row(rows[i][1], rows[i][2]) end
  looked = looked + #rows
  return #rows == 50 and rows[50][1] or '0'
end

local order = { 'dead', 'index', 'groups', 'results' }
local ended = false
while looked < most and bytes < 1000000 and not ended do
  mine.at = steps[order[mine.place]](mine.at)
  ended = step_on(mine, #order)
end
local out = walked(k, audit, 'dead', mine, ended)
out[#out + 1], out[#out + 2] = groups, timeless
return out
