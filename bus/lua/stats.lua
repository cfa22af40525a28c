-- Counts and the ledger of one topic, read in one moment.
-- Reads only.
-- KEYS: tasks_stream tasks delayed results dead done counters settings errors audit
-- ARGV: ms after which a reader is no sign of life any more
-- Returns flat name, value pairs, then counters and settings as they are; every count
-- without walking.
local alive_ms = tonumber(ARGV[1])
local own = call('HGETALL', settings)
local group = facts_of(own).group
local pending, handed, oldest, readers, last = 0, 0, '', 0, '0-0'
local groups = group and redis.pcall('XINFO', 'GROUPS', tasks_stream) or {}
for _, flat in ipairs(groups.err and {} or groups) do
  local of = facts_of(flat)
  if of.name == group then
    pending, last = of.pending, of['last-delivered-id']
    -- A topic that rests has nobody: then there is nothing to ask.
    local consumers = of.consumers > 0 and redis.pcall('XINFO', 'CONSUMERS', tasks_stream, group) or {}
    for _, row in ipairs(consumers.err and {} or consumers) do
      local facts = facts_of(row)
      if facts.name == HANDED then handed = facts.pending end
      if reads_by_hand(facts, alive_ms) then readers = readers + 1 end
    end
  end
end
local live, late = call('HLEN', tasks), call('ZCARD', delayed)
if handed > 0 then
  local row = redis.pcall('XPENDING', tasks_stream, group, '-', '+', 1, HANDED)
  if not row.err and row[1] then oldest = row[1][1] end
elseif live - late - pending > 0 then
  local first = call('XRANGE', tasks_stream, '(' .. last, '+', 'COUNT', 1)
  if first[1] then oldest = first[1][1] end
end
-- Rows of entries that somebody else wrote and nobody adopted yet are no tasks so far.
local told = redis.pcall('HMGET', audit, 'live.told', 'dead.told')
local running = math.max(0, math.min(pending - handed, live - late))
return { { 'now', int(now_ms()), 'group', group or '', 'live', live,
  'running', running, 'delayed', late, 'waiting', live - late - running,
  'oldest', oldest, 'readers', readers, 'results', call('XLEN', results), 'dead', call('XLEN', dead),
  'groups', call('HLEN', errors), 'unmended', (told[1] or 0) + (told[2] or 0) },
  call('HGETALL', counters), own }
