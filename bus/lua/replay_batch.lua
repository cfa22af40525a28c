-- Put dead letters of a bulk replay back to work, and take them off its list: one step.
-- KEYS: tasks_stream tasks attempts dead dead_index errors counters events <todo> <out> <facts> ...
-- ARGV: fence, ms until their outcome is looked for, mark, then per letter: its entry id,
--       task id, payload json, options, epoch after, end of the line that tells of it, the
--       place of its failure group among the keys that are not named here
-- Returns {'ok' or 'fenced', task ids of letters that are none any more}: these stay on
--   the list, for whoever asks what became of them.
-- A letter is on the list until it is replayed, so no crash, repeat or second driver
-- replays it twice. `replay` does the same for one.
local stands = call('HGET', facts, 'fence')
if stands ~= ARGV[1] then return { 'fenced', {} } end
of_their_types({ tasks, attempts, errors, counters }, { tasks_stream }, more)
of_their_types({ facts }, {}, { todo, out })
local k = { stream = tasks_stream, tasks = tasks, attempts = attempts, dead = dead,
            dead_index = dead_index, errors = errors, events = events }
local now, gone, count = now_ms(), {}, 0
for i = 4, #ARGV, 7 do
  local dead_id, id, epoch = ARGV[i], ARGV[i + 1], ARGV[i + 4]
  local member = dead_id .. ' ' .. id
  if call('ZSCORE', todo, member) then
    local letter = call('HGET', dead_index, id) == dead_id and letter_of(dead, dead_id)
    if letter then
      k.group = more[tonumber(ARGV[i + 6])]
      call('HDEL', tasks, '')
      revive(k, now, id, letter, dead_id, { json = ARGV[i + 2], options = ARGV[i + 3],
        epoch = epoch, mark = ARGV[3], line = ARGV[i + 5] })
      call('ZREM', todo, member)
      call('ZADD', out, int(now + ARGV[2]), id .. ' ' .. epoch .. ' ' .. int(now))
      count = count + 1
    else
      gone[#gone + 1] = id
    end
  end
end
if count > 0 then
  call('HINCRBY', counters, 'replayed', count)
  call('HINCRBY', facts, 'replayed', count)
  -- The list of outcomes is new with its first letter.
  call('EXPIRE', out, math.max(call('TTL', facts), 1))
end
return { 'ok', gone }
