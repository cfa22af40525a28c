-- Take one dead letter out for good; it can be undone for an hour.
-- KEYS: dead dead_index errors bin results done counters settings events <group>
-- ARGV: id, letter's entry id, result row, results to keep, bin entries to keep, mark
-- Returns {'discarded', bin id} | {'repeat'} | {'not_dead'} | {'moved'}; a repeated send
-- is told by its mark in the bin.
local id, dead_id = ARGV[1], ARGV[2]
local now_dead = call('HGET', dead_index, id)
if not now_dead then
  local newest = call('XREVRANGE', bin, '+', '-', 'COUNT', 100)
  for i = 1, #newest do
    local binned = letter_of(bin, newest[i][1])
    if binned.id == id and binned.mark == ARGV[6] then return { 'repeat' } end
  end
  return { 'not_dead' }
end
if now_dead ~= dead_id then return { 'moved' } end
local letter = letter_of(dead, dead_id)
if not letter then return { 'not_dead' } end
unbury({ dead = dead, dead_index = dead_index, group = group, errors = errors },
  letter, dead_id)
local row_id = publish({ results = results, done = done }, id, ARGV[3],
  call('HGET', settings, 'results_keep') or ARGV[4],
  past_of(tonumber(option(letter.meta or '', 'epoch') or 0), letter.attempts))
letter.mark, letter.row = ARGV[6], row_id
local flat = {}
for name, value in pairs(letter) do
  flat[#flat + 1] = name
  flat[#flat + 1] = value
end
local bin_id = call('XADD', bin, 'MAXLEN', '=', ARGV[5], '*', unpack(flat))
call('HINCRBY', counters, 'discarded', 1)
note(events, 'discarded', id)
return { 'discarded', bin_id }
