-- Move up to 100 due tasks into the stream.
-- KEYS: tasks_stream tasks delayed parked
-- ARGV: how many at most
-- Returns {moved, ms until the next one is due (an hour at most) or -1}.
-- ZREM is the first write, so promotion passes at maxmemory; a promoter that loses the
-- race finds nothing due.
local now, moved = now_ms(), 0
local due = call('ZRANGEBYSCORE', delayed, '-inf', int(now), 'LIMIT', 0, ARGV[1])
if #due > 0 then of_their_types({ tasks, parked }, { tasks_stream }, {}) end
for i = 1, #due do
  local id = due[i]
  local text = call('HGET', tasks, id)
  local r = text and read_record(text)
  local meta, json = parked_of(call('HGET', parked, id))
  call('ZREM', delayed, id)
  -- What does not fit together is left to the audit.
  if r and r.sid == '' and json then
    r.sid = call('XADD', tasks_stream, '*', 'id', id, 'json', json, 'meta', meta)
    r.n = 0
    call('HDEL', parked, id)
    call('HSET', tasks, id, write_record(r))
    moved = moved + 1
  end
end
local first = call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
if not first[1] then return { moved, -1 } end
-- A time that is none would be no number for the caller either; the audit mends it.
return { moved, math.max(0, math.min(3600000, math.ceil(tonumber(first[2]) - now))) }
