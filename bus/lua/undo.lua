-- Bring a discarded letter back from the bin.
-- KEYS: tasks dead dead_index errors bin results done counters events <group>
-- ARGV: id, bin entry id
-- Returns {'dead', dead id} | {'gone'} the hour is over | {'taken'} the id was sent again.
local id = ARGV[1]
local again = call('HGET', dead_index, id)
if again then return { 'dead', again } end -- another undo was first, or this one
local letter = letter_of(bin, ARGV[2])
if not letter or letter.id ~= id then return { 'gone' } end
local score = call('ZSCORE', done, id)
local ours = score and letter.row and tonumber(score) == tonumber(done_score(letter.row))
if call('HEXISTS', tasks, id) == 1 or (score and not ours) then return { 'taken' } end
call('XDEL', bin, ARGV[2])
if ours then
  call('XDEL', results, letter.row)
  call('ZREM', done, id)
end
local dead_id = bury({ dead = dead, dead_index = dead_index, group = group,
  errors = errors }, now_ms(), { id = id, json = letter.json, error = letter.error or '',
  fp = letter.fp or '', fence = letter.fence or '', attempts = letter.attempts or '',
  meta = letter.meta or '', more = letter.alias and { 'alias', letter.alias } })
call('HINCRBY', counters, 'discarded', -1)
note(events, 'restored', id)
return { 'dead', dead_id }
