-- End up to 100 tasks with their results.
-- KEYS: tasks_stream results tasks done attempts counters settings minutes hours
-- ARGV: group, consumer, results to keep,
--       then per task: sid, n, id, wait bucket, run bucket, result row
-- Returns {ok count, then per task that was not ok: index from 0, kind, info}
--   kind 'fenced' (info: the record), 'done' (info: the result row) or 'gone'; the caller
--   tells a repeat of its own by the row's fence.
-- Only the holder of the delivery sid.n may end it. The empty HDEL comes first: a release
-- passes at maxmemory, and everything after it does too. Then the results: where they cannot
-- be written nothing leaves its place.
local group, me = ARGV[1], ARGV[2]
local FIRST = { attempt = 0, epoch = 0, n = 0, lost = 0 } -- the common record
local ids = {}
for i = 6, #ARGV, 6 do ids[#ids + 1] = ARGV[i] end
local records = call('HMGET', tasks, unpack(ids))
local mine, sids, gone_ids, forget, out = {}, {}, {}, {}, { 0 }
local epochs = {} -- of those that did not end at their first attempt
local add = { d = 0 }
-- One look at what this consumer holds from the first of these entries to the last, which
-- as text sort like their ms; what it does not show is asked for by itself.
local taken, own = {}, {}
if #ids > 3 then
  local first, last = ARGV[4], ARGV[4]
  for i = 10, #ARGV, 6 do
    local sid = ARGV[i]
    if sid < first then first = sid elseif sid > last then last = sid end
  end
  local rows = redis.pcall('XPENDING', tasks_stream, group, match(first, '^%d*'),
    match(last, '^%d*'), 1000, me)
  for i = 1, #rows do own[rows[i][1]] = true end
end
local function held(sid)
  return own[sid] or holds(tasks_stream, group, sid, me)
end
for n = 1, #ids do
  local at = 4 + (n - 1) * 6
  local sid, fence_n, id = ARGV[at], tonumber(ARGV[at + 1]), ids[n]
  local text = records[n]
  local r
  if text and not taken[id] then
    r = text == sid .. '|0|0|0|0||' and FIRST or read_record(text)
  end
  if r and (r == FIRST or r.sid == sid) and r.n == fence_n and held(sid) then
    taken[id] = true
    mine[#mine + 1] = at
    sids[#sids + 1] = sid
    gone_ids[#gone_ids + 1] = id
    if r.attempt > 0 or r.epoch > 0 or r.lost > 0 then
      forget[#forget + 1] = id
      epochs[#forget] = r.epoch
    end
    local w, b = 'w' .. ARGV[at + 3], 'r' .. ARGV[at + 4]
    add[w] = (add[w] or 0) + 1
    add[b] = (add[b] or 0) + 1
  else
    local kind, info = 'gone', ''
    if r then
      kind, info = 'fenced', records[n]
    else
      local score = call('ZSCORE', done, id)
      if score then kind, info = 'done', ended_row(results, score, id) or '' end
    end
    out[#out + 1] = n - 1
    out[#out + 1] = kind
    out[#out + 1] = info
  end
end
if #mine == 0 then return out end
of_their_types({ counters, minutes, hours }, { results }, { done })
local NONE, past = {}, {}
if #forget > 0 then
  local lines = call('HMGET', attempts, unpack(forget))
  for i = 1, #forget do past[forget[i]] = past_of(epochs[i], lines[i]) end
end
local keep = bound_of(call('HGET', settings, 'results_keep'), ARGV[3])
call('HDEL', tasks, '')
local scores, result_id = {}, nil
for i = 1, #mine do
  local at = mine[i]
  local id = ARGV[at + 2]
  -- The last one trims for all.
  if i < #mine then
    result_id = call('XADD', results, '*', 'id', id, 'json', ARGV[at + 5],
      unpack(past[id] or NONE))
  else
    result_id = call('XADD', results, 'MAXLEN', '=', keep, '*', 'id', id,
      'json', ARGV[at + 5], unpack(past[id] or NONE))
  end
  scores[#scores + 1] = done_score(result_id)
  scores[#scores + 1] = id
end
call('XACK', tasks_stream, group, unpack(sids))
call('XDEL', tasks_stream, unpack(sids))
call('HDEL', tasks, unpack(gone_ids))
if #forget > 0 then call('HDEL', attempts, unpack(forget)) end
call('ZADD', done, unpack(scores))
call('HINCRBY', counters, 'done', #mine)
add.d = #mine
tally(minutes, hours, counters, tonumber(match(result_id, '^%d+')), add)
out[1] = #mine
return out
