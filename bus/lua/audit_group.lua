-- See whether one failure group holds its letters and its facts, and put right what not.
-- KEYS: dead errors counters events <group>
-- ARGV: fingerprint, number of the round, then dead ids that carry this fingerprint
-- Returns {members, flat what, id of wounds closed}.
local fp = ARGV[1]
local k = { counters = counters, events = events, told = {} }
call('HDEL', errors, '')
unlink_misfits(k, { zset = { group } })
local error_json
local taken = 0
for i = 3, #ARGV do
  local letter = letter_of(dead, ARGV[i])
  if letter and letter.fp == fp then
    error_json = letter.error
    if not call('ZSCORE', group, ARGV[i]) then
      call('ZADD', group, match(ARGV[i], '^%d+'), ARGV[i])
      mended(k, 'group', letter.id or ARGV[i])
    end
  elseif not letter then
    -- Discarded by the look that saw it, which could not reach its group.
    taken = taken + call('ZREM', group, ARGV[i])
  end
end
-- A stretch of its members, a longer one where it is all there is to look at, another one
-- each round; more while there is something to put right.
local stretch = #ARGV > 2 and 50 or 500
local pages = math.max(1, math.ceil(call('ZCARD', group) / stretch))
local from = tonumber(ARGV[2]) % pages * stretch
for _ = 1, 20 do
  local members, before = call('ZRANGE', group, from, from + stretch - 1), #k.told
  for i = 1, #members do
    local letter = letter_of(dead, members[i])
    if not letter or letter.fp ~= fp then
      call('ZREM', group, members[i])
      mended(k, 'group', members[i])
    else
      error_json = letter.error
    end
  end
  if #k.told == before then break end
end
local count, facts = call('ZCARD', group), call('HGET', errors, fp)
if count == 0 and facts then
  call('HDEL', errors, fp)
  if taken == 0 then mended(k, 'group', fp) end
elseif count > 0 and not match(facts or '', '^%d+|%d+|%d+|') and error_json then
  local first = call('ZRANGE', group, 0, 0, 'WITHSCORES')[2]
  local last = call('ZRANGE', group, -1, -1, 'WITHSCORES')[2]
  call('HSET', errors, fp, int(first) .. '|' .. int(last) .. '|' .. int(count) .. '|' .. error_json)
  mended(k, 'group', fp)
end
return { count, k.told }
