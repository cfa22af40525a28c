-- Cancel the live tasks of a stretch of a topic.
-- KEYS: tasks_stream tasks delayed parked attempts results done dead_index dead counters settings events
-- ARGV: topic, where to go on ('0' from the first), up to where tasks came ('' now), which of
--       those that run: '' none, 'ask' to stop, 'tear' out of their agents' hands; results
--       to keep
-- Returns {where to go on or '0', up to where tasks came, cancelled, asked to stop, still
--   there}. Up to where: ms since 1970, and the last id of the stream at that time.
-- Ids are ahead of the clock where that was set back, or where somebody wrote one that is:
-- an entry goes by its place in the stream, what is parked by its time.
-- Behind the records the walk goes on through the stream, where that holds more than they
-- name: what somebody else wrote and nobody read becomes a task, and ends like all others.
local topic, at, since = ARGV[1], ARGV[2], ARGV[3]
local ask, torn = ARGV[4] == 'ask', ARGV[4] == 'tear'
local now = now_ms()
if since == '' then
  local info = redis.pcall('XINFO', 'STREAM', tasks_stream)
  since = int(now) .. ' ' .. (info.err and '0-0' or facts_of(info)['last-generated-id'])
end
local most, last = match(since, '^(%d+) (.*)$')
local set = call('HMGET', settings, 'group', 'results_keep')
local k = { stream = tasks_stream, tasks = tasks, delayed = delayed, parked = parked,
            attempts = attempts, results = results, done = done, dead_index = dead_index,
            dead = dead, counters = counters, events = events }

-- Whether a task came before this walk began; later ones are nobody's to purge. A time that
-- is still to come was told before the clock was set back.
local function is_old(ms)
  ms = tonumber(ms)
  return ms <= tonumber(most) or ms > now
end
local function was_there(id, r)
  if r.sid == '' then return is_old(enqueued_ms(call('HGET', parked, id) or '', '')) end
  if not is_after(r.sid, last) then return true end
  -- Promoted or replayed since.
  local e = entry(tasks_stream, r.sid)
  local ms = match(e and e.meta or '', 'e=(%d+)')
  return ms ~= nil and is_old(ms)
end

local counts = { cancelled = 0, running = 0, kept = 0 }
local function purge(id, r)
  local who = r.sid ~= '' and set[1] and holder(tasks_stream, set[1], r.sid)
  local what = 'kept'
  if ask or torn or not who or who == HANDED then
    what = cancel_live(k, topic, id, r, set[1], bound_of(set[2], ARGV[5]), torn)
  end
  counts[what] = counts[what] + 1
end

local function purge_records()
  local page = call('HSCAN', tasks, at, 'COUNT', 100)
  for i = 1, #page[2], 2 do
    local id, r = page[2][i], read_record(page[2][i + 1])
    if r and was_there(id, r) then purge(id, r) end
  end
  if page[1] ~= '0' then return page[1] end
  local held = redis.pcall('XLEN', tasks_stream)
  local more = type(held) == 'number' and held > call('HLEN', tasks) - call('ZCARD', delayed)
  return more and '-' or '0'
end

local function purge_unread()
  local rows = call('XRANGE', tasks_stream, at, last, 'COUNT', 100)
  for i = 1, #rows do
    local sid = rows[i][1]
    local e = as_entry(tasks_stream, sid, rows[i][2])
    local text = call('HGET', tasks, e.id)
    local r = text and read_record(text)
    if not r or r.sid ~= sid then
      r = record_of(k, sid, e)
      if r then purge(e.id, r) else drop(k, set[1], sid) end
    end
  end
  return #rows == 100 and '(' .. rows[100][1] or '0'
end

of_their_types({ parked, attempts, dead_index, counters }, { results }, { delayed, done })
call('HDEL', tasks, '')
at = match(at, '^%d+$') and purge_records() or purge_unread()
return { at, since, counts.cancelled, counts.running, counts.running + counts.kept }
