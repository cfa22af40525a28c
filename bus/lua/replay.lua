-- Put one dead letter back to work: next epoch, attempts from zero, history kept.
-- KEYS: tasks_stream tasks attempts dead dead_index errors counters events <group>
-- ARGV: id, letter's entry id, payload json, options, epoch after, request mark
-- Returns {'replayed', sid} | {'repeat'} | {'not_dead', record or ''} | {'moved'}.
-- Of N concurrent replays exactly one finds the letter; a repeated send of that one is
-- told by its mark in the record.
local id, dead_id = ARGV[1], ARGV[2]
local now_dead = call('HGET', dead_index, id)
if not now_dead then
  local text = call('HGET', tasks, id)
  local r = text and read_record(text)
  if r and option(r.options, 'q') == ARGV[6] then return { 'repeat' } end
  return { 'not_dead', text or '' }
end
if now_dead ~= dead_id then return { 'moved' } end
local letter = letter_of(dead, dead_id)
if not letter then return { 'not_dead', '' } end
unbury({ dead = dead, dead_index = dead_index, group = group, errors = errors },
  letter, dead_id)
local mark = match(letter.meta or '', 'e=%d+') or ''
local sid = call('XADD', tasks_stream, '*', 'id', id, 'json', ARGV[3], 'meta', mark)
local options = ARGV[4]
if options ~= '' then options = options .. ',' end
call('HSET', tasks, id, sid .. '|0|' .. ARGV[5] .. '|0|0||' .. options .. 'q=' .. ARGV[6])
if letter.attempts and letter.attempts ~= '' then
  call('HSET', attempts, id, letter.attempts)
end
call('HINCRBY', counters, 'replayed', 1)
note(events, 'replayed', id)
return { 'replayed', sid }
