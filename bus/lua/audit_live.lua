-- Look through a stretch of a topic's live tasks, and put right what does not fit.
-- KEYS: tasks_stream tasks delayed parked attempts done dead_index dead results counters settings errors bin seen0 seen1 minutes hours events audit <group> <poison>
-- ARGV: ms between two looks ('0' now), places to look at, lost leases allowed, fingerprint
--       and error json of a lost task, the same of poison, results to keep
-- Returns {} too early | {round, 1 if this ended it, flat what, id of wounds closed, flat
--   what, id of those only seen}.
-- The place to go on is kept, so all janitors together walk one walk, without a leader;
-- nothing here happens while the data is whole. Where it is not, the ledger decides whose
-- fault it is: it misses a task, or has one too many. A record is not given up before a
-- whole round has looked for its payload.
local pace, most, allowed = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local k = { stream = tasks_stream, tasks = tasks, dead_index = dead_index,
            dead = dead, counters = counters, errors = errors, events = events,
            attempts = attempts, results = results, done = done, settings = settings,
            told = {}, seen = {} }
local now = now_ms()
local mine = walk_of(k, audit, 'live', now, pace)
if not mine then return {} end
unlink_misfits(k, { stream = { tasks_stream, dead, results, bin, events },
  hash = { tasks, parked, attempts, dead_index, counters, settings, errors, seen0, seen1,
           minutes, hours },
  zset = { delayed, done } })
drop_miscounts(k)
local working = working_group(k, settings)
local last = last_delivered(tasks_stream, working)
local looked, bytes = 0, 0
-- While the last minute is far ahead of the clock, sends begin no other one.
if (tonumber(call('HGET', minutes, 'last') or '') or 0) - now / 60000 > 180 then
  tally(minutes, hours, counters, now)
end
for _, id in ipairs(no_times(delayed, 1)) do
  call('ZADD', delayed, int(now), id)
  mended(k, 'due', id)
end
for _, id in ipairs(no_times(done, 4096)) do
  call('ZREM', done, id)
  mended(k, 'end', id)
end

-- Whether an id whose record is gone is a task, which the caller restores: it never
-- ended, and the books owe one.
local function is_missed(id)
  return is_uuid(id) and not call('ZSCORE', done, id)
    and call('HEXISTS', dead_index, id) == 0 and owed(k)
end

-- A live task that cannot be run becomes a letter, so that nobody waits for ever. It stays
-- as it is, and this gives nil, while no letter can be written.
local function give_up(id, r, e, why)
  if is_at_its_end(dead) then return nil end
  call('HDEL', tasks, '')
  k.group = why == 'lost' and group or poison
  local letter = { fp = ARGV[6], error = ARGV[7] }
  if why == 'lost' then letter = { fp = ARGV[4], error = ARGV[5] } end
  died(k, now, id, r, e, letter, working, why)
  call('ZREM', delayed, id)
  call('HDEL', parked, id)
  tally(minutes, hours, counters, now, { x = 1 })
  mended(k, why, id)
  return true
end

-- An entry that was handed out and is in nobody's hand (its consumer was deleted) would
-- never be given again. If it was asked to be cancelled, it is not to be either.
local function hand_over(id, r, e)
  if match(r.flags, 'c') then
    return end_asked(k, id, r, e, working, ARGV[8]) and mended(k, 'row', id)
  end
  r.lost = r.lost + 1
  if r.lost >= allowed then return give_up(id, r, e, 'poison') end
  call('XCLAIM', tasks_stream, working, HANDED, 0, r.sid, 'FORCE', 'JUSTID')
  r.n = r.n + 1
  call('HSET', tasks, id, write_record(r))
  mended(k, 'row', id)
end

-- A record that says where its payload is, and it is not there. What is parked in no shape
-- of ours is kept by the letter.
local function seek(id, r)
  local text = call('HGET', parked, id)
  local _, json = parked_of(text)
  local rest = text and { json = text, meta = '', foreign = true }
  if json then
    r = without_mark(r or new_record(''))
    r.sid, r.n = '', 0
    call('HSET', tasks, id, write_record(r))
    call('ZADD', delayed, 'NX', int(now), id)
    return mended(k, 'due', id)
  end
  local since = r and tonumber(match(r.flags, '%?(%d+)'))
  local sought = since and mine.round - since > 1
  if missing(k) < 0 then
    -- One that nobody ever sent. If it is not plain which, a whole round looks for one
    -- that is: a record of a task that ended. Books in doubt cannot say so of others.
    local ended = call('ZSCORE', done, id) or call('HEXISTS', dead_index, id) == 1
    if ended or sought and not in_doubt(k) then
      call('HDEL', tasks, id)
      return mended(k, 'record', id)
    elseif sought then
      if give_up(id, r, rest, 'lost') then call('HINCRBY', counters, 'adopted', 1) end
      return
    end
  elseif sought or call('XLEN', tasks_stream) == 0 then
    return give_up(id, r or new_record(''), rest, 'lost')
  end
  if not since then
    r = r or new_record('')
    r.flags = r.flags .. '?' .. int(mine.round)
    call('HSET', tasks, id, write_record(r))
  end
end

local function look_at_task(id, text, score, dead_id)
  if not is_uuid(id) then
    call('HDEL', tasks, id)
    return mended(k, 'record', id)
  end
  if dead_id then
    local letter = letter_of(dead, dead_id)
    if letter and letter.id == id then
      seen_only(k, 'live and dead', id)
    else
      call('HDEL', dead_index, id)
      mended(k, 'letter', id)
    end
  end
  if score and ended_row(results, score, id) then
    seen_only(k, 'live and done', id)
  elseif score then
    call('ZREM', done, id)
    mended(k, 'end', id)
  end
  local r, due = read_record(text), call('ZSCORE', delayed, id)
  if not r then return seek(id, nil) end
  if r.sid == '' then
    local _, json = parked_of(call('HGET', parked, id))
    bytes = bytes + #(json or '')
    if not due or not json then return seek(id, r) end
    return
  end
  local e = entry(tasks_stream, r.sid)
  if not e or e.id ~= id then return seek(id, r) end
  bytes = bytes + #e.json
  if due then
    call('ZREM', delayed, id)
    mended(k, 'due', id)
  end
  if match(r.flags, '%?') then call('HSET', tasks, id, write_record(without_mark(r))) end
  if working and not is_after(r.sid, last)
      and not holder(tasks_stream, working, r.sid) then
    hand_over(id, r, e)
  end
end

local function look_at_entry(sid, e)
  local text = call('HGET', tasks, e.id)
  local r = text and read_record(text)
  bytes = bytes + #e.json
  if r and r.sid == sid then return end
  if e.foreign and not text then
    -- Not a task before somebody reads it; then it is counted, and had a record.
    if is_after(sid, last) or not is_missed(e.id) then return end
    found_again(k, sid, e, nil, 'gone')
  elseif not record_of(k, sid, e) then
    drop(k, working, sid)
    mended(k, 'entry', e.id)
  end
end

-- A payload without its record, or without its due time.
local function look_at_parked(id)
  local text = call('HGET', tasks, id)
  local r = text and read_record(text)
  if r and r.sid ~= '' and call('XRANGE', tasks_stream, r.sid, r.sid)[1]
      or not text and not is_missed(id) then
    call('ZREM', delayed, id)
    call('HDEL', parked, id)
    mended(k, 'payload', id)
  elseif not text then
    call('HSET', tasks, id, write_record(new_record('')))
    call('ZADD', delayed, 'NX', int(now), id)
    mended(k, 'record', id)
  elseif r then
    seek(id, r)
  end
end

local steps = {}

function steps.tasks(at)
  local page = call('HSCAN', tasks, at, 'COUNT', 100)
  local flat = page[2]
  -- A small hash comes whole, whatever COUNT says.
  for from = 1, #flat, 1000 do
    local ids, to = {}, math.min(from + 999, #flat)
    for i = from, to, 2 do ids[#ids + 1] = flat[i] end
    local scores = call('ZMSCORE', done, unpack(ids))
    local letters = call('HMGET', dead_index, unpack(ids))
    for i = 1, #ids do look_at_task(ids[i], flat[from + i * 2 - 1], scores[i], letters[i]) end
    looked = looked + #ids
  end
  return page[1]
end

function steps.stream(at)
  local rows = call('XRANGE', tasks_stream, at == '0' and '-' or '(' .. at, '+', 'COUNT', 50)
  for i = 1, #rows do
    look_at_entry(rows[i][1], as_entry(tasks_stream, rows[i][1], rows[i][2]))
  end
  looked = looked + #rows
  return #rows == 50 and rows[50][1] or '0'
end

function steps.pending(at)
  if not working then return '0' end
  local rows = redis.pcall('XPENDING', tasks_stream, working,
    at == '0' and '-' or '(' .. at, '+', 100)
  if rows.err then return '0' end
  for i = 1, #rows do
    local e = entry(tasks_stream, rows[i][1])
    bytes = bytes + (e and #e.json or 0)
    if not e then
      call('XACK', tasks_stream, working, rows[i][1])
      mended(k, 'row', rows[i][1])
    end
  end
  looked = looked + #rows
  return #rows == 100 and rows[100][1] or '0'
end

function steps.delayed(at)
  local page = call('ZSCAN', delayed, at, 'COUNT', 100)
  for i = 1, #page[2], 2 do
    local id = page[2][i]
    if call('HEXISTS', tasks, id) == 0 then look_at_parked(id) end
  end
  looked = looked + #page[2] / 2
  return page[1]
end

function steps.parked(at)
  -- Payloads are read only where there are more than due times.
  if at == '0' and call('HLEN', parked) == call('ZCARD', delayed) then return '0' end
  local page = call('HSCAN', parked, at, 'COUNT', 20)
  for i = 1, #page[2], 2 do
    if not call('ZSCORE', delayed, page[2][i]) then look_at_parked(page[2][i]) end
    bytes = bytes + #page[2][i + 1]
  end
  looked = looked + #page[2] / 2
  return page[1]
end

function steps.attempts(at)
  local page = call('HSCAN', attempts, at, 'COUNT', 20)
  for i = 1, #page[2], 2 do
    if call('HEXISTS', tasks, page[2][i]) == 0 then
      call('HDEL', attempts, page[2][i])
      mended(k, 'history', page[2][i])
    end
    bytes = bytes + #page[2][i + 1]
  end
  looked = looked + #page[2] / 2
  return page[1]
end

local order = { 'tasks', 'stream', 'pending', 'delayed', 'parked', 'attempts' }
local ended = false
while looked < most and bytes < 1000000 and not ended do
  mine.at = steps[order[mine.place]](mine.at)
  ended = step_on(mine, #order)
end
return walked(k, audit, 'live', mine, ended)
