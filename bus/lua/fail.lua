-- End up to 100 attempts as failed: retry later, dead letter, or cancelled.
-- KEYS: tasks_stream tasks delayed parked attempts dead dead_index errors results done counters settings minutes hours events ...
-- ARGV: group, consumer, topic, results to keep,
--       then per task: sid, n, id, delay ms, '1' if final, max attempts (handler's or
--       default), attempt line, error json, fingerprint, run bucket, the place of its
--       failure group among the keys that are not named here, from 1
-- Returns per task 'delayed', 'dead', 'cancelled', 'fenced' or 'gone'.
-- Priority of max_attempts: task > topic > handler > default.
local working, me, topic, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local now = now_ms()
local k = { stream = tasks_stream, dead = dead, dead_index = dead_index, errors = errors,
            results = results, done = done, tasks = tasks, attempts = attempts,
            counters = counters, events = events }
local limits = call('HMGET', settings, 'max_attempts', 'results_keep')
of_their_types({ attempts, parked, dead_index, errors, counters, minutes, hours },
  { dead, results }, { delayed, done, unpack(more) })
local add = {}
local function count(name) add[name] = (add[name] or 0) + 1 end

local function fail(sid, fence_n, id, delay_ms, final, tries, line, said, fp, bucket, place)
  local text = call('HGET', tasks, id)
  local r = text and read_record(text)
  if not r then return 'gone' end
  if r.sid ~= sid or r.n ~= tonumber(fence_n)
      or not holds(tasks_stream, working, sid, me) then
    return 'fenced'
  end
  local e = entry(tasks_stream, sid)
  if not e then return 'gone' end
  local most = tonumber(option(r.options, 'm') or bound_of(limits[1], tries))

  -- Nothing leaves its place before what it becomes is written: a stream may refuse.
  call('HDEL', tasks, '')
  r.attempt = r.attempt + 1
  -- Whose bound counts is known only here.
  remember(attempts, id, line:sub(1, -2) .. ',"max_attempts":' .. int(most) .. '}')
  if match(r.flags, 'c') then
    -- A cancel was asked for while it ran; whatever is not a completion ends it so.
    cancelled(k, topic, id, r, e, bound_of(limits[2], keep), now)
    leave(tasks_stream, working, sid)
    return 'cancelled'
  end
  if final ~= '1' and r.attempt < most then
    leave(tasks_stream, working, sid)
    r.sid, r.n = '', 0
    call('HSET', parked, id, with_enqueued(e.meta, sid) .. '\n' .. e.json)
    call('ZADD', delayed, int(now + tonumber(delay_ms)), id)
    call('HSET', tasks, id, write_record(r))
    call('HINCRBY', counters, 'retried', 1)
    count('t')
    count('r' .. bucket)
    note(events, 'delayed', id, 'attempt ' .. int(r.attempt) .. ' of ' .. int(most))
    return 'delayed'
  end
  k.group = more[tonumber(place)]
  died(k, now, id, r, e, { error = said, fp = fp }, working, fp)
  count('x')
  count('r' .. bucket)
  return 'dead'
end

local out = {}
for at = 5, #ARGV, 11 do out[#out + 1] = fail(unpack(ARGV, at, at + 10)) end
tally(minutes, hours, counters, now, add)
return out
