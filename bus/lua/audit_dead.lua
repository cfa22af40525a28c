-- Look through a stretch of a topic's dead letters and of what it remembers of ends.
-- KEYS: dead dead_index tasks_stream tasks done results attempts counters errors events settings audit <group>
-- ARGV: ms between two looks ('0' now), places to look at, topic, fingerprint and error
--       json of a lost letter
-- Returns as audit_live, then flat fingerprint, dead id of letters seen and fingerprint, ''
--   of groups seen: whoever called looks whether they fit (audit_group), since a group is
--   a key of its own.
local pace, most, topic = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
local k = { stream = tasks_stream, tasks = tasks, done = done, dead_index = dead_index,
            dead = dead, counters = counters, errors = errors, events = events,
            group = group, told = {}, seen = {} }
local now = now_ms()
local mine = walk_of(audit, 'dead', now, pace)
if not mine then return {} end
unlink_misfits(k, { stream = { dead, results, tasks_stream, events },
  hash = { dead_index, tasks, attempts, counters, errors, settings }, zset = { done } })
local looked, bytes, groups = 0, 0, {}

local function has_ended(id)
  local score = call('ZSCORE', done, id)
  return score and ended_row(results, score, id)
end

local function look_at_letter(dead_id, letter)
  local id = letter.id
  if not id or not is_uuid(id) then return end -- by hand: listed, nobody's task
  for name, value in pairs(letter) do bytes = bytes + #value end
  if letter.fp and letter.fp ~= '' then
    groups[#groups + 1], groups[#groups + 2] = letter.fp, dead_id
  end
  local named = call('HGET', dead_index, id)
  if named == dead_id then return end
  if named and letter_by(dead, named) then
    seen_only(k, 'two letters', id)
  elseif call('HEXISTS', tasks, id) == 1 then
    seen_only(k, 'live and dead', id)
  elseif has_ended(id) then
    seen_only(k, 'done and dead', id)
  else
    -- A letter that somebody wrote by hand is a task from now on.
    if missing(k) < 0 and not letter.fp then
      call('HINCRBY', counters, 'adopted', 1)
    else
      mended(k, 'letter', id)
    end
    call('HSET', dead_index, id, dead_id)
    if letter.alias then call('HSET', dead_index, 'alias:' .. letter.alias, dead_id) end
  end
end

local function look_at_index(id, dead_id)
  local letter = letter_by(dead, dead_id)
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
      if has_ended(id) then return seen_only(k, 'done and dead', id) end
      call('ZREM', done, id)
      mended(k, 'end', id)
    end
    return
  end
  call('HDEL', dead_index, id)
  if not is_uuid(id) or call('HEXISTS', tasks, id) == 1 or call('ZSCORE', done, id)
      or not owed(k) then
    return mended(k, 'letter', id)
  end
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
      or call('HEXISTS', tasks, id) == 1 or call('HEXISTS', dead_index, id) == 1 then
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
out[#out + 1] = groups
return out
