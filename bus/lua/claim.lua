-- Take tasks for one consumer: handed-over rows first, then new entries.
-- KEYS: tasks_stream tasks settings counters done dead_index dead attempts results events
-- ARGV: group, consumer, how many, '1' to take one suspect and nothing else ('2' from a
--       consumer that holds nothing, '3' to leave suspects to others, else '0'), suspect
--       bound, '1' to read new entries, results to keep, then sids a blocking read has
--       delivered to this consumer; those that it holds no more are passed over
-- Returns {now, paused 0/1, suspects left for this consumer to run, timeout_s of the
--   topic, deliveries}; deliveries: flat sid, id, json, meta, record.
-- Suspects are for one consumer at a time, which has five seconds to make itself empty:
-- not every agent that sees one has to stand still. With '1' and none wanted it has five
-- more, if one is left. A consumer that holds nothing is not kept from them, and takes
-- nothing new beside them.
-- An entry without its record (or with another sid in it) is acked and never run; one that
-- was asked to be cancelled before anybody began it ends so. A suspect, which lost its
-- agents before, is given alone. NOGROUP is returned as error.
-- What was sent before the working group was made once more may have run under its fence
-- already, so it gets a new one.
local group, me, want = ARGV[1], ARGV[2], tonumber(ARGV[3])
local mode, suspect_at, fresh_too = ARGV[4], tonumber(ARGV[5]), ARGV[6] == '1'
local alone = mode == '1'
local looks = alone and want == 0
local k = { stream = tasks_stream, tasks = tasks, done = done, dead_index = dead_index,
            dead = dead, counters = counters, settings = settings, attempts = attempts,
            results = results, events = events }
local now = now_ms()
local set = call('HMGET', settings, 'paused', 'timeout_s', 'renewed')
local paused, renewed = set[1] == '1', set[3]
local out, suspects, count = {}, 0, 0

local function give(sid, e, record)
  deliver(out, sid, e, record)
  count = count + 1
end

-- An entry that this consumer holds since a moment ago.
local function receive(sid, e, text)
  local again = renewed and not is_after(sid, renewed)
  if text == sid .. '|0|0|0|0||' and not paused and not again then
    return give(sid, e, text)
  end
  local r = text and read_record(text)
  if not r or r.sid ~= sid then
    r, text = record_of(k, sid, e)
    if not r then return drop(k, group, sid) end
  end
  local asked = match(r.flags, 'c')
  if asked and end_asked(k, e.id, r, e, group, ARGV[7]) then return end
  if asked or paused or r.lost >= suspect_at then
    if not asked and not paused then suspects = suspects + 1 end
    call('XCLAIM', tasks_stream, group, HANDED, 0, sid, 'JUSTID')
    r.n = r.n + 1
    call('HSET', tasks, e.id, write_record(r))
  else
    if again then
      r.n = r.n + 1
      text = write_record(r)
      call('HDEL', tasks, '')
      call('HSET', tasks, e.id, text)
    end
    give(sid, e, text)
  end
end

local function suspects_for_me()
  if suspects == 0 or mode == '3' or (mode == '2' and count > 0) then return 0 end
  local to, who = match(call('HGET', settings, 'quiet') or '', '^(%d+)|(.*)$')
  if who and who ~= me and tonumber(to) > now and mode ~= '2' then return 0 end
  call('HDEL', settings, '')
  call('HSET', settings, 'quiet', int(now + 5000) .. '|' .. me)
  return suspects
end

for i = 8, #ARGV do
  local e = entry(tasks_stream, ARGV[i])
  if not e then
    call('XACK', tasks_stream, group, ARGV[i])
  -- Who stood still since may have lost it: it is another's then, and stays there.
  elseif holds(tasks_stream, group, ARGV[i], me) then
    receive(ARGV[i], e, call('HGET', tasks, e.id))
  end
end
if paused or (want <= count and not looks) then
  return { now, paused and 1 or 0, suspects_for_me(), set[2], out }
end

-- Handed-over rows, oldest first. Suspects are passed over (but for a consumer that has
-- made itself empty), so the look goes on behind them, to a bound.
local from, looked = '-', 0
while (count < want or looks) and looked < 1000 do
  local rows = redis.pcall('XPENDING', tasks_stream, group, from, '+', 100, HANDED)
  if rows.err then return rows end
  for i = 1, #rows do
    if (looks and suspects > 0) or (count >= want and not looks) then break end
    local sid = rows[i][1]
    local e = entry(tasks_stream, sid)
    local r, text
    if e then r, text = record_of(k, sid, e) end
    if not e then
      call('XACK', tasks_stream, group, sid)
    elseif not r then
      drop(k, group, sid)
    elseif match(r.flags, 'c') then
      end_asked(k, e.id, r, e, group, ARGV[7])
    elseif alone == (r.lost >= suspect_at) and not looks then
      call('XCLAIM', tasks_stream, group, me, 0, sid, 'JUSTID')
      give(sid, e, text)
    elseif r.lost >= suspect_at then
      suspects = suspects + 1
    end
  end
  looked = looked + #rows
  if #rows < 100 or (looks and suspects > 0) then break end
  from = '(' .. rows[#rows][1]
end
-- Who is empty stays so for the suspect that it has met.
if looks or (mode == '2' and suspects > 0 and count == 0) then
  return { now, 0, suspects_for_me(), set[2], out }
end
if alone then
  call('HDEL', settings, 'quiet') -- the next suspect is anybody's
  return { now, 0, 0, set[2], out }
end

if fresh_too and count < want then
  local got = redis.pcall('XREADGROUP', 'GROUP', group, me, 'COUNT', want - count,
    'STREAMS', tasks_stream, '>')
  if got and got.err then return got end
  if got and got[1] then
    local list, ids = got[1][2], {}
    for i = 1, #list do
      list[i][3] = as_entry(tasks_stream, list[i][1], list[i][2])
      ids[i] = list[i][3].id
    end
    local records = call('HMGET', tasks, unpack(ids))
    for i = 1, #list do receive(list[i][1], list[i][3], records[i]) end
  end
end
return { now, 0, suspects_for_me(), set[2], out }
