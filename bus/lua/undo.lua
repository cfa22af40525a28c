-- Bring a discarded letter back from the bin.
-- KEYS: dead dead_index errors bin results done counters events <group>
-- ARGV: id, bin entry id
-- Returns {'dead', dead id} | {'gone'}: another undo was first, or the hour is over.
local id = ARGV[1]
local letter = letter_of(bin, ARGV[2])
if not letter or letter.id ~= id then return { 'gone' } end
call('XDEL', bin, ARGV[2])
local score = call('ZSCORE', done, id)
if score then
  local ms = floor(score / 4096)
  call('XDEL', results, int(ms) .. '-' .. int(score - ms * 4096))
  call('ZREM', done, id)
end
local dead_id = bury({ dead = dead, dead_index = dead_index, group = group,
  errors = errors }, now_ms(), { id = id, json = letter.json, error = letter.error or '',
  fp = letter.fp or '', fence = letter.fence or '', attempts = letter.attempts or '',
  meta = letter.meta or '' })
call('HINCRBY', counters, 'discarded', -1)
note(events, 'restored', id)
return { 'dead', dead_id }
