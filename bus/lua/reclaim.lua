-- Take up to 100 tasks from an owner that is dead: hand them over, or bury the poison.
-- KEYS: tasks_stream tasks attempts dead dead_index errors results done counters settings minutes hours events <group>
-- ARGV: group, owner, least idle ms, deliveries allowed, topic, results to keep,
--       poison fingerprint, poison error json, id of the owner's agent safe for JSON, why
--       it loses them
-- Returns {handed over, buried, rows seen}.
-- The caller judged the owner; the idle time is checked again here, because it may have
-- come back and renewed its lease since.
local working, owner, idle = ARGV[1], ARGV[2], ARGV[3]
local allowed, topic, keep = tonumber(ARGV[4]), ARGV[5], ARGV[6]
local name, why = ARGV[9], ARGV[10]
local rows = redis.pcall('XPENDING', tasks_stream, working, 'IDLE', idle, '-', '+', 100,
  owner)
if rows.err or #rows == 0 then return { 0, 0, 0 } end
of_their_types({ tasks, attempts, dead_index, errors, counters, minutes, hours },
  { dead, results }, { done, group })
local now = now_ms()
local k = { stream = tasks_stream, tasks = tasks, counters = counters, dead = dead,
            dead_index = dead_index, group = group, errors = errors, results = results,
            done = done, attempts = attempts, events = events }
local handed, buried = 0, 0

-- When an attempt began, as far as its row tells.
local function began(row)
  local ms = lent_ms(row)
  if not ms then return '' end
  return ',"started_at":"' .. iso(ms) .. '","duration_ms":' .. int(math.max(0, now - ms))
end

for i = 1, #rows do
  local sid = rows[i][1]
  local e = entry(tasks_stream, sid)
  local r = e and record_of(k, sid, e)
  if not e then
    call('XACK', tasks_stream, working, sid)
  elseif not r then
    drop(k, working, sid)
  else
    local id, fence = e.id, sid .. '.' .. int(r.n)
    r.lost = r.lost + 1
    local line = '{"epoch":' .. int(r.epoch) .. ',"attempt":' .. int(r.attempt + 1)
      .. ',"agent":"' .. name .. '","fence":"' .. fence .. '"' .. began(rows[i])
      .. ',"finished_at":"' .. iso(now) .. '","error":{"type":"LeaseLost","message":"'
      .. why .. ' (' .. int(r.lost) .. ' of ' .. int(allowed) .. ')"}}'
    if match(r.flags, 'c') then
      call('HDEL', tasks, '')
      remember(attempts, id, line)
      cancelled(k, topic, id, r, e, bound_of(call('HGET', settings, 'results_keep'), keep), now)
      leave(tasks_stream, working, sid)
    elseif r.lost >= allowed then
      call('HDEL', tasks, '')
      remember(attempts, id, line)
      died(k, now, id, r, e, { error = ARGV[8], fp = ARGV[7] }, working, 'poison')
      buried = buried + 1
    else
      call('XCLAIM', tasks_stream, working, HANDED, 0, sid, 'JUSTID')
      r.n = r.n + 1
      call('HSET', tasks, id, write_record(r))
      remember(attempts, id, line)
      note(events, 'lost', id, name)
      handed = handed + 1
    end
  end
end
if handed + buried > 0 then
  call('HINCRBY', counters, 'lost', handed + buried)
  tally(minutes, hours, counters, now, { l = handed + buried, x = buried })
end
return { handed, buried, #rows }
