-- How tasks leave for good. Like prelude.lua, carried by the verbs that name it.

-- A key that somebody made one of another type would stop a script half-way, and so would
-- a stream with an entry under the last id there is, behind which nothing can be added. So
-- all that is going to be written is looked at before anything leaves its place.
local function of_their_types(hashes, streams, zsets)
  for i = 1, #hashes do call('HLEN', hashes[i]) end
  for i = 1, #streams do
    if call('XRANGE', streams[i], '18446744073709551615-0', '+', 'COUNT', 1)[1] then
      error(redis.error_reply('EXHAUSTED ' .. streams[i]))
    end
  end
  for i = 1, #zsets do call('ZCARD', zsets[i]) end
end

-- What the log says of this very request, if it is among the newest 1,000 events: `event`
-- of this task (`id` nil: of any), with its mark in front. Its answer was lost, or its key
-- came again.
local function told_before(events, event, id, mark)
  local log = redis.pcall('XREVRANGE', events, '+', '-', 'COUNT', 1000)
  for i = 1, #log do
    local flat = log[i][2]
    if flat[2] == event and (not id or flat[4] == id) and find(flat[6] or '', mark, 1, true) == 1 then
      return flat[6]
    end
  end
end

-- The line in a task's history that tells of this very replay, wherever the task is by now:
-- in its letter (if it has one), live, or ended.
local function replayed_before(k, id, letter, mark)
  local lines = letter and letter.attempts or call('HGET', k.attempts, id)
  if not lines then
    local score = call('ZSCORE', k.done, id)
    local _, flat = ended_row(k.results, score or 0, id)
    lines = flat and facts_of(flat).attempts
  end
  return match('\n' .. (lines or ''), '\n({"replay":%d+,"mark":"' .. mark .. '"[^\n]*)')
end

-- What is parked of a task, as its meta and its JSON; without JSON it is not ours, and a
-- meta that is none of ours says nothing.
local function parked_of(text)
  local meta, json = match(text or '', '^([^\n]*)\n(.*)$')
  if json and not match(meta, '^e=%d+$') and not match(meta, '^e=%d+,') then meta = '' end
  return meta, json
end

-- What a result entry carries behind `id, json` of a task that did not end at its first
-- attempt: what its letter would carry. Plain tasks pay nothing for it.
local function past_of(epoch, lines)
  if epoch == 0 and (lines or '') == '' then return {} end
  return { 'epoch', int(epoch), 'attempts', lines or '' }
end

-- Write one result row, index it, and keep the newest `keep`; `past` as of past_of.
local function publish(k, id, row, keep, past)
  local result_id = call('XADD', k.results, '*', 'id', id, 'json', row, unpack(past))
  call('ZADD', k.done, done_score(result_id), id)
  call('XTRIM', k.results, 'MAXLEN', '=', keep)
  return result_id
end

-- What a row tells of how its task was sent; records.own in Python says the same.
local function sent_with(options)
  if options == '' then return '' end
  local told = ''
  local most = match(option(options, 'm') or '', '^%d+$')
  local limit = match(option(options, 't') or '', '^%d+%.?%d*$')
  local of = match(option(options, 'of') or '', '^[%x-]+$')
  if most then told = ',"max_attempts":' .. int(tonumber(most)) end
  if limit then told = told .. fmt(',"timeout_s":%.15g', tonumber(limit)) end
  if of then told = told .. ',"again_of":"' .. of .. '"' end
  return told
end

-- End a live task as cancelled; the caller has begun with a release, and takes its entry
-- out behind this: the row may be refused. `row` of the pending list tells who had it in
-- hand, where that attempt is not on record; `mark` tells the request, for its repeat.
local function cancelled(k, topic, id, r, e, keep, now, row, mark)
  local lines = call('HGET', k.attempts, id)
  local fence = r.sid ~= '' and r.sid .. '.' .. int(r.n) or ''
  local who, began, attempt = 'null', 'null', r.attempt
  if row then
    who = agent_json(row[2])
    began, attempt = lent_ms(row) and '"' .. iso(lent_ms(row)) .. '"' or began, attempt + 1
  end
  local told = '{"id":"' .. id .. '","topic":"' .. topic
    .. '","state":"cancelled","task":' .. json_of(e)
    .. ',"result":null,"agent":' .. who .. ',"attempt":' .. int(attempt) .. ',"fence":"' .. fence
    .. '","enqueued_at":"' .. iso(enqueued_ms(e and e.meta or '', r.sid))
    .. '","started_at":' .. began .. ',"finished_at":"' .. iso(now) .. '"'
    .. sent_with(r.options) .. '}'
  publish(k, id, told, keep, past_of(r.epoch, lines))
  call('HDEL', k.tasks, id)
  call('HDEL', k.attempts, id)
  call('HINCRBY', k.counters, 'cancelled', 1)
  note(k.events, 'cancelled', id, mark)
end

-- End a live task as dead, with a letter of all that its record and its history tell. The
-- caller has begun with a release, and counts in this minute. `letter` brings error and fp,
-- and what is not as usual. Returns the letter's entry id.
local function died(k, now, id, r, e, letter, group, why)
  letter.id, letter.attempts = id, call('HGET', k.attempts, id) or ''
  letter.json = letter.json or '{"id":"' .. id .. '","payload":' .. json_of(e) .. '}'
  letter.fence = r.sid ~= '' and r.sid .. '.' .. int(r.n) or ''
  letter.meta = with_enqueued(e and e.meta or '', r.sid) .. ',epoch=' .. int(r.epoch)
  if r.options ~= '' then letter.meta = letter.meta .. ',' .. r.options end
  local dead_id = bury(k, now, letter)
  if r.sid ~= '' then leave(k.stream, group, r.sid) end
  call('HDEL', k.tasks, id)
  call('HDEL', k.attempts, id)
  call('HINCRBY', k.counters, 'died', 1)
  note(k.events, 'dead', id, why)
  return dead_id
end

-- Cancel a live task: at once while it waits; one that runs is asked to stop, or `torn`
-- out of its agent's hand. `k` has the keys of its payload as well.
local function cancel_live(k, topic, id, r, group, keep, torn)
  local e
  if r.sid == '' then
    local text = call('HGET', k.parked, id)
    local meta, json = parked_of(text)
    if text then e = { json = json or text, meta = meta or '', foreign = not json } end
    call('HDEL', k.tasks, '')
    cancelled(k, topic, id, r, e, keep, now_ms())
    call('ZREM', k.delayed, id)
    call('HDEL', k.parked, id)
  else
    local who = group and holder(k.stream, group, r.sid)
    if who and who ~= HANDED and not torn then
      call('HDEL', k.tasks, '')
      if not match(r.flags, 'c') then
        r.flags = r.flags .. 'c'
        call('HSET', k.tasks, id, write_record(r))
        note(k.events, 'cancel_asked', id)
      end
      return 'running'
    end
    e = entry(k.stream, r.sid)
    call('HDEL', k.tasks, '')
    cancelled(k, topic, id, r, e, keep, now_ms())
    leave(k.stream, who and group, r.sid)
  end
  return 'cancelled'
end

-- A letter's entry in the bin, of which `most` are kept. It dies where it is in the stream,
-- and when it comes back it is elsewhere. nil of one by hand with more fields than one call
-- can write.
local function kept_in_bin(k, letter, dead_id, most)
  letter.died = letter.died or match(dead_id, '^%d+')
  local flat = {}
  for name, value in pairs(letter) do
    flat[#flat + 1], flat[#flat + 2] = name, value
  end
  if #flat > 7000 then return nil end
  return call('XADD', k.bin, 'MAXLEN', '=', most, '*', unpack(flat))
end

-- A letter into the bin, where `undo` finds it; the bin entry's id. '' of one that is too
-- wide for it, and goes for good.
local function binned(k, letter, dead_id, row, keep, most, mark)
  call('HDEL', k.dead_index, '')
  local row_id = publish(k, letter.id, row, keep,
    past_of(tonumber(option(letter.meta or '', 'epoch') or 0), letter.attempts))
  letter.row = row_id
  local bin_id = kept_in_bin(k, letter, dead_id, most) or ''
  unbury(k, letter, dead_id)
  call('HINCRBY', k.counters, 'discarded', 1)
  note(k.events, 'discarded', letter.id, mark)
  return bin_id
end
