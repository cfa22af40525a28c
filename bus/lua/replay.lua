-- Put one dead letter back to work: next epoch, attempts from zero, history kept.
-- KEYS: tasks_stream tasks attempts dead dead_index errors results done counters events <group>
-- ARGV: id, letter's entry id ('' only to ask for a repeat), payload json, options, epoch
--       after, request mark, end of the line that tells of it
-- Returns {'replayed', sid} | {'repeat', line} | {'not_dead'} | {'moved'}.
-- Of N concurrent replays exactly one finds the letter. A repeat of that one is told by
-- its mark in the history, wherever the task is by then: its answer was lost, or somebody
-- clicked twice. The line tells the caller whether it was a replay with that payload.
local id, dead_id, mark = ARGV[1], ARGV[2], ARGV[6]
local now_dead = call('HGET', dead_index, id)
local letter = now_dead and letter_of(dead, now_dead)
local k = { stream = tasks_stream, tasks = tasks, attempts = attempts, dead = dead,
            dead_index = dead_index, group = group, errors = errors, events = events,
            done = done, results = results }
local line = replayed_before(k, id, letter, mark)
if line then return { 'repeat', line } end
if not letter then return { 'not_dead' } end
if now_dead ~= dead_id then return { 'moved' } end
of_their_types({ tasks, attempts, errors, counters }, { tasks_stream }, { group })
call('HDEL', tasks, '')
local sid = revive(k, now_ms(), id, letter, dead_id,
  { json = ARGV[3], options = ARGV[4], epoch = ARGV[5], mark = mark, line = ARGV[7] })
call('HINCRBY', counters, 'replayed', 1)
return { 'replayed', sid }
