-- Take one dead letter out for good; it can be undone for an hour.
-- KEYS: dead dead_index errors bin results done counters settings events <group>
-- ARGV: id, letter's entry id, result row, results to keep, bin entries to keep, mark
--       (letter '' only to ask for a repeat)
-- Returns {'discarded', bin id} | {'repeat'} | {'not_dead'} | {'moved'}; a repeat is told by
-- its mark in the event log, also where the letter was brought back since.
local id, dead_id = ARGV[1], ARGV[2]
if told_before(events, 'discarded', id, ARGV[6]) then return { 'repeat' } end
local now_dead = call('HGET', dead_index, id)
if not now_dead then return { 'not_dead' } end
if now_dead ~= dead_id then return { 'moved' } end
local letter = letter_of(dead, dead_id)
if not letter then return { 'not_dead' } end
of_their_types({ errors, counters }, { bin, results }, { done, group })
local k = { dead = dead, dead_index = dead_index, group = group, errors = errors, bin = bin,
            results = results, done = done, counters = counters, events = events }
return { 'discarded', binned(k, letter, dead_id, ARGV[3],
  bound_of(call('HGET', settings, 'results_keep'), ARGV[4]), ARGV[5], ARGV[6]) }
