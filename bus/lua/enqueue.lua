-- Accept up to 100 tasks: into the stream, or parked until they are due.
-- KEYS: tasks_stream tasks delayed parked done dead_index dead counters settings minutes hours seen0 seen1
-- ARGV: backlog bound, dead-letter bound, this call's bound or '', keys a generation
--       holds if tasks have six parts, else '', then per task: id, due ('' now, '+ms' from now, 'ms' since 1970),
--       options, json; then digest of the payload if the id stands for an idempotency
--       key, else '', and this task's own bound or ''
-- Returns per task: its sid if it waits now, 2 delayed, {3, where} known and live, 0 full,
--   {4, 'json'} known but with another text, {5, entry} done, {6, entry} dead letter,
--   {7, where, or 5 done, 6 dead} known by its key, or {7, -1} known with another digest;
--   where: 2 delayed, 3 waiting, 8 running.
-- A known id is never sent twice; where the texts differ (or live elsewhere) the caller
-- compares the values. The first write is XADD or HSET: refused whole at maxmemory.

local now -- asked for only where needed: the id of a new entry carries it
local bounds = call('HMGET', settings, 'backlog_max', 'dead_max', 'group')
local bound = tonumber(bound_of(bounds[1], ARGV[1]))
if ARGV[3] ~= '' then bound = math.min(bound, tonumber(ARGV[3])) end
local dead_full = call('XLEN', dead) >= tonumber(bound_of(bounds[2], ARGV[2]))
local live = call('HLEN', tasks)

local ids = {}
local six = ARGV[4] ~= ''
-- Nobody is to hear of an error after the first write: who then sends again is known.
of_their_types({ parked, counters, minutes, hours }, { tasks_stream }, { delayed })
-- Books that begin where there is something already are not the first: see in_doubt.
local counted = call('HGET', counters, 'accepted')
local spoiled = counted and (#counted > 15 or not match(counted, '^%-?%d+$'))
local again = (spoiled or not counted)
  and live + call('XLEN', tasks_stream) + call('HLEN', parked) + call('HLEN', dead_index) > 0
local step = six and 6 or 4
for i = 5, #ARGV, step do ids[#ids + 1] = ARGV[i] end
local records = call('HMGET', tasks, unpack(ids))
local finished = call('ZMSCORE', done, unpack(ids))
local buried = call('HMGET', dead_index, unpack(ids))

-- Keys outlive the results of their tasks, so they are asked first.
local newer = six and call('HMGET', seen0, unpack(ids)) or {}
local older = six and call('HMGET', seen1, unpack(ids)) or {}

local function where_is(r)
  if not r or r.sid == '' then return 2 end
  local who = bounds[3] and holder(tasks_stream, bounds[3], r.sid)
  return who and who ~= HANDED and 8 or 3
end

local out, fresh, seen, learned = {}, {}, {}, {}
local accepted, repeated = 0, 0
for n = 1, #ids do
  local id, at = ids[n], 5 + (n - 1) * step
  local due, options, json = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local digest, most = six and ARGV[at + 4] or '', six and ARGV[at + 5] or ''
  local known = digest ~= '' and (newer[n] or older[n])
  if known then
    out[n] = { 7, -1 }
    if known == digest then
      repeated = repeated + 1
      out[n][2] = records[n] and where_is(read_record(records[n])) or buried[n] and 6 or 5
    end
  elseif records[n] then
    local r = read_record(records[n])
    local stored
    if r and r.sid ~= '' then
      local e = entry(tasks_stream, r.sid)
      stored = e and e.json
    else
      stored = match(call('HGET', parked, id) or '', '^[^\n]*\n(.*)$')
    end
    -- Counted also where the texts differ: the caller may find that the values do not.
    repeated = repeated + 1
    out[n] = stored and stored ~= json and { 4, stored } or { 3, where_is(r) }
  elseif seen[id] then
    -- The same id twice in one call: the first one stands.
    if seen[id] == json then repeated = repeated + 1; out[n] = { 3, due == '' and 3 or 2 }
    else out[n] = { 4, seen[id] } end
  elseif finished[n] then
    repeated = repeated + 1
    out[n] = { 5, int(finished[n]) }
  elseif buried[n] then
    repeated = repeated + 1
    out[n] = { 6, buried[n] }
  elseif dead_full or live >= bound or (most ~= '' and live >= tonumber(most)) then
    out[n] = 0
  else
    local wait
    if due == '' then wait = 0
    elseif match(due, '^%+') then wait = tonumber(due)
    else
      now = now or now_ms()
      wait = tonumber(due) - now
    end
    local sid = ''
    if wait > 0 then
      now = now or now_ms()
      call('HSET', parked, id, 'e=' .. int(now) .. '\n' .. json)
      call('ZADD', delayed, int(now + wait), id)
      out[n] = 2
    else
      sid = call('XADD', tasks_stream, '*', 'id', id, 'json', json, 'meta', '')
      out[n] = sid
    end
    fresh[#fresh + 1] = id
    fresh[#fresh + 1] = sid .. '|0|0|0|0||' .. options
    seen[id] = json
    if digest ~= '' then
      learned[#learned + 1] = id
      learned[#learned + 1] = digest
    end
    live = live + 1
    accepted = accepted + 1
  end
end
if accepted > 0 then
  call('HSET', tasks, unpack(fresh))
  if not now then now = tonumber(match(fresh[2], '^%d+')) end
  if spoiled then call('HDEL', counters, 'accepted') end
  tally(minutes, hours, counters, now)
  call('HINCRBY', counters, 'accepted', accepted)
  if again then call('HSET', counters, 'doubt_at', int(now)) end
end
if #learned > 0 then
  -- Two generations, each filled for a day (or to its bound) and kept for another.
  local one, two = call('HGET', seen0, '@'), call('HGET', seen1, '@')
  local current, since = seen0, tonumber(one or 0)
  if tonumber(two or 0) > since then current, since = seen1, tonumber(two) end
  local full = call('HLEN', current) >= tonumber(ARGV[4])
  if since == 0 or full or now - since >= 86400000 then
    if since > 0 then
      current = current == seen0 and seen1 or seen0
      call('UNLINK', current)
    end
    -- The later mark is the current one's, also where both begin in one ms.
    call('HSET', current, '@', int(math.max(now, since + 1)))
    if full then call('HSET', current, '@early', int(now - since)) end
    call('PEXPIRE', current, 172800000)
  end
  call('HSET', current, unpack(learned))
end
-- A repeat writes too, so that WAIT on this connection covers the original.
if repeated > 0 then call('HINCRBY', counters, 'repeated', repeated) end
return out
