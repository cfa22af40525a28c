-- Read up to 100 tasks this consumer holds: ghosts of lost replies, rows left at the end.
-- KEYS: tasks_stream tasks counters settings done dead_index dead
-- ARGV: group, consumer, sid to start behind ('' from the first), greatest idle ms or ''
-- Returns {now, paused 0/1, last sid seen or '', deliveries}; deliveries as in claim.
local group, me = ARGV[1], ARGV[2]
local k = { stream = tasks_stream, tasks = tasks, done = done, dead_index = dead_index,
            dead = dead, counters = counters }
local from = ARGV[3] == '' and '-' or '(' .. ARGV[3]
local rows = redis.pcall('XPENDING', tasks_stream, group, from, '+', 100, me)
if rows.err then return rows end
local out, last = {}, ''
for i = 1, #rows do
  local sid = rows[i][1]
  last = sid
  local young = ARGV[4] == '' or rows[i][3] <= tonumber(ARGV[4])
  local e = young and entry(tasks_stream, sid)
  local r, text
  if e then r, text = record_of(k, sid, e) end
  if not young then
    -- Its reader has it in hand.
  elseif not e then
    call('XACK', tasks_stream, group, sid)
  elseif not r then
    drop(k, group, sid)
  else
    deliver(out, sid, e, text)
  end
end
local paused = call('HGET', settings, 'paused') == '1' and 1 or 0
return { now_ms(), paused, #rows == 100 and last or '', out }
