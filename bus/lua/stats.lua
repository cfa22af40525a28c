-- Counts and the ledger of one topic, read in one moment.
-- Reads only.
-- KEYS: tasks_stream tasks delayed results dead done counters settings errors audit
-- ARGV: ms after which a reader is no sign of life any more
-- Returns flat name, value pairs; every count without walking.
local alive_ms = tonumber(ARGV[1])
local group = call('HGET', settings, 'group')
local pending, handed, oldest, readers = 0, 0, '', 0
if group then
  local summary = redis.pcall('XPENDING', tasks_stream, group)
  if not summary.err then
    pending = summary[1]
    for _, row in ipairs(summary[4] or {}) do
      if row[1] == HANDED then handed = tonumber(row[2]) end
    end
  end
  local consumers = redis.pcall('XINFO', 'CONSUMERS', tasks_stream, group)
  for _, flat in ipairs(consumers.err and {} or consumers) do
    local facts = {}
    for i = 1, #flat, 2 do facts[flat[i]] = flat[i + 1] end
    if reads_by_hand(facts, alive_ms) then readers = readers + 1 end
  end
end
local live, late = call('HLEN', tasks), call('ZCARD', delayed)
if handed > 0 then
  local row = redis.pcall('XPENDING', tasks_stream, group, '-', '+', 1, HANDED)
  if not row.err and row[1] then oldest = row[1][1] end
elseif live - late - pending > 0 then
  local last = last_delivered(tasks_stream, group)
  local first = call('XRANGE', tasks_stream, '(' .. last, '+', 'COUNT', 1)
  if first[1] then oldest = first[1][1] end
end
-- Rows of entries that somebody else wrote and nobody adopted yet are no tasks so far.
local told = redis.pcall('HMGET', audit, 'live.told', 'dead.told')
local running = math.max(0, math.min(pending - handed, live - late))
local out = { 'now', int(now_ms()), 'group', group or '', 'live', live,
  'running', running, 'delayed', late, 'waiting', live - late - running,
  'oldest', oldest, 'readers', readers, 'results', call('XLEN', results), 'dead', call('XLEN', dead),
  'groups', call('HLEN', errors), 'unmended', (told[1] or 0) + (told[2] or 0) }
for _, from in ipairs({ { 'counter.', call('HGETALL', counters) },
                        { 'setting.', call('HGETALL', settings) } }) do
  for i = 1, #from[2], 2 do
    out[#out + 1] = from[1] .. from[2][i]
    out[#out + 1] = from[2][i + 1]
  end
end
return out
