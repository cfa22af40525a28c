-- Discard up to 100 dead letters.
-- KEYS: dead dead_index errors bin results done counters settings events ...
-- ARGV: results to keep, bin entries to keep, mark, then per letter: its entry id, its
--       result row, the place of its failure group among the keys that are not named here
-- Returns how many were discarded, and how many only deleted: one that is in no index
-- (somebody wrote it by hand) is nobody's task. Those that left meanwhile are passed over.
local keep = bound_of(call('HGET', settings, 'results_keep'), ARGV[1])
local k = { dead = dead, dead_index = dead_index, errors = errors, bin = bin,
            results = results, done = done, counters = counters, events = events }
local discarded, deleted = 0, 0
of_their_types({ dead_index, errors, counters }, { bin, results }, { done, unpack(more) })
call('HDEL', dead_index, '')
for i = 4, #ARGV, 3 do
  local dead_id = ARGV[i]
  local letter = letter_of(dead, dead_id)
  if letter and call('HGET', dead_index, letter.id or '') == dead_id then
    k.group = more[tonumber(ARGV[i + 2])]
    binned(k, letter, dead_id, ARGV[i + 1], keep, ARGV[2], ARGV[3])
    discarded = discarded + 1
  elseif letter then
    deleted = deleted + call('XDEL', dead, dead_id)
  end
end
return { discarded, deleted }
