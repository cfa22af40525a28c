-- Bring a discarded letter back from the bin.
-- KEYS: tasks dead dead_index errors bin results done counters events <group>
-- ARGV: id, bin entry id ('' only to ask for a repeat), ms for which the bin keeps a
--       letter, request mark
-- Returns {'dead', dead id} | {'repeat', dead id} | {'gone'} the hour is over, or another
--   undo was first | {'taken'} the id was sent again.
-- The bin is emptied by janitors; where none runs the hour is over all the same. Of N
-- concurrent undos exactly one finds the letter. A repeat of that one is told by its mark
-- in the event log.
local id, now, mark = ARGV[1], now_ms(), ARGV[4]
local before = told_before(events, 'restored', id, mark)
if before then return { 'repeat', match(before, ' (.*)$') or '' } end
local letter = ARGV[2] ~= '' and letter_of(bin, ARGV[2])
if not letter or letter.id ~= id then return { 'gone' } end
local again = call('HGET', dead_index, id)
if tonumber(match(ARGV[2], '^%d+')) < now - ARGV[3] then return { 'gone' } end
local score = call('ZSCORE', done, id)
local ours = score and letter.row and tonumber(score) == tonumber(done_score(letter.row))
if score and not ours then
  -- Its stream was given other ids since (renumber); who ended otherwise has no such row.
  local row = ended_row(results, score, id)
  ours = row and match(row, '^{"id":"[^"]*","topic":"[^"]*","state":"discarded"') ~= nil
  local ms = floor(score / 4096)
  letter.row = int(ms) .. '-' .. int(score - ms * 4096)
end
if again or call('HEXISTS', tasks, id) == 1 or (score and not ours) then
  return { 'taken' }
end
of_their_types({ errors, counters }, { dead, results }, { done, group })
call('HDEL', dead_index, '')
-- Its entry is new, so the letter itself says when it died.
local died = match(letter.died or '', '^%d+$')
died = died and #died < 16 and math.min(died, now) or now
local more = { 'died', int(died) }
if letter.alias then more = { 'alias', letter.alias, 'died', int(died) } end
-- Somebody else's letter may have its payload in a field of another name.
local known = ' id json error fp fence attempts meta alias died row '
for name, value in pairs(letter) do
  if not find(known, ' ' .. name .. ' ', 1, true) then
    more[#more + 1], more[#more + 2] = name, value
  end
end
local dead_id = bury({ dead = dead, dead_index = dead_index, group = group,
  errors = errors }, now, { id = id, json = letter.json or '', error = letter.error or '',
  fp = letter.fp or '', fence = letter.fence or '', attempts = letter.attempts or '',
  meta = letter.meta or '', more = more, back = died })
call('XDEL', bin, ARGV[2])
if ours then
  call('XDEL', results, letter.row)
  call('ZREM', done, id)
end
-- The ledger's side, which tasks leave again; and how many did, so that both together only
-- grow (metrics.py).
call('HINCRBY', counters, 'discarded', -1)
call('HINCRBY', counters, 'restored', 1)
note(events, 'restored', id, mark .. ' ' .. dead_id)
return { 'dead', dead_id }
