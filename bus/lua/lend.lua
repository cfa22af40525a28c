-- Lend tasks to an agent over HTTP; the same claim again is lent what it still holds.
-- KEYS: tasks_stream tasks settings counters done dead_index dead attempts results events <claim>
-- ARGV: consumer, how many (0: only what the same claim was lent), suspect bound, ms for
--       which the claim is remembered, results to keep, then other consumers of the
--       agent, if it has registered with another lease before
-- Returns {now, timeout_s of the topic or '', the consumer that holds them, deliveries};
--   deliveries as in claim. Without a working group to lend from the error is NOGROUP.
-- A suspect, which lost its agents before, is lent to an agent that holds nothing else
-- here, and nothing beside it. Where all are busy one of them gets no other task until it
-- is empty; for five seconds out of ten no agent of the runtime does the same.
-- The delivery count of a row, which nobody else needs, says when it was lent (ms): a
-- lease that is renewed keeps it.
local me, want, suspect_at = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()
local set = call('HMGET', settings, 'group', 'paused', 'timeout_s', 'quiet', 'renewed')
local group, timeout_s, renewed = set[1], set[3] or '', set[5]
if not group and want > 0 then return redis.error_reply('NOGROUP no working group yet') end
local k = { stream = tasks_stream, tasks = tasks, done = done, dead_index = dead_index,
            dead = dead, counters = counters, settings = settings, attempts = attempts,
            results = results, events = events }
local out, sids, fences, bytes, lender = {}, {}, {}, 0, me

local function give(sid, e, record, n)
  deliver(out, sid, e, record)
  sids[#sids + 1] = sid
  fences[#fences + 1] = sid .. '.' .. int(n)
  bytes = bytes + #e.json
end

local function lent() return { now, timeout_s, lender, out } end

local before = group and call('GET', claim)
if before then
  for fence in gmatch(before, '%S+') do
    local sid, n = match(fence, '^(.*)%.(%d+)$')
    local e = entry(tasks_stream, sid)
    local text = e and call('HGET', tasks, e.id)
    local r = text and read_record(text)
    local who = r and r.sid == sid and r.n == tonumber(n) and holder(tasks_stream, group, sid)
    if who and who ~= HANDED then
      lender = who -- the same of all: a claim is lent under one lease
      give(sid, e, text, n)
    end
  end
  return lent()
end
if set[2] == '1' or want == 0 then return lent() end

local mine = redis.pcall('XPENDING', tasks_stream, group, '-', '+', 2, me)
if mine.err then return mine end
for i = 6, #ARGV do
  for _, row in ipairs(call('XPENDING', tasks_stream, group, '-', '+', 2, ARGV[i])) do
    mine[#mine + 1] = row
  end
end
if #mine == 1 then
  local e = entry(tasks_stream, mine[1][1])
  local text = e and call('HGET', tasks, e.id)
  local r = text and read_record(text)
  if r and r.lost >= suspect_at then return lent() end
end
local till, who = match(set[4] or '', '^(%d+)|(.*)$')
local taken_on = who and who ~= me and tonumber(till) > now

-- Handed-over rows, oldest first. What is to be lent is claimed below, all at once.
local from, looked = '-', 0
while #sids < want and looked < 1000 and bytes < 4000000 do
  local rows = call('XPENDING', tasks_stream, group, from, '+', 100, HANDED)
  for i = 1, #rows do
    if #sids >= want then break end
    local sid = rows[i][1]
    local e = entry(tasks_stream, sid)
    local r, text
    if e then r, text = record_of(k, sid, e) end
    if not e then
      call('XACK', tasks_stream, group, sid)
    elseif not r then
      drop(k, group, sid)
    elseif match(r.flags, 'c') then
      end_asked(k, e.id, r, e, group, ARGV[5])
    elseif r.lost < suspect_at then
      give(sid, e, text, r.n)
    elseif #mine == 0 or not taken_on then
      call('HDEL', settings, '')
      if #mine > 0 then
        if who ~= me or till + 5000 <= now then
          call('HSET', settings, 'quiet', int(now + 5000) .. '|' .. me)
        end
        out = {}
        return lent()
      end
      out, sids, fences = {}, {}, {}
      give(sid, e, text, r.n)
      call('HDEL', settings, 'quiet') -- the next suspect is anybody's
      want = 1
      break
    end
  end
  looked = looked + #rows
  if #rows < 100 then break end
  from = '(' .. rows[#rows][1]
end

-- An entry that was delivered to this agent just now.
local function receive(sid, e)
  local r, text = record_of(k, sid, e)
  if not r then return drop(k, group, sid) end
  local asked = match(r.flags, 'c')
  if asked and end_asked(k, e.id, r, e, group, ARGV[5]) then return end
  -- What was sent before the group was made once more may have run under its fence.
  local again = renewed and not is_after(sid, renewed)
  local pass_on = asked or r.lost >= suspect_at
  if pass_on or again then
    r.n = r.n + 1
    text = write_record(r)
    call('HSET', tasks, e.id, text)
  end
  if pass_on then
    call('XCLAIM', tasks_stream, group, HANDED, 0, sid, 'JUSTID')
  else
    give(sid, e, text, r.n)
  end
end

while #sids < want and bytes < 4000000 do
  local step = math.min(25, want - #sids)
  local got = redis.pcall('XREADGROUP', 'GROUP', group, me, 'COUNT', step,
    'STREAMS', tasks_stream, '>')
  if got and got.err then return got end
  local list = got and got[1] and got[1][2] or {}
  for i = 1, #list do
    receive(list[i][1], as_entry(tasks_stream, list[i][1], list[i][2]))
  end
  if #list < step then break end
end
if #sids > 0 then
  fences = table.concat(fences, ' ')
  sids[#sids + 1] = 'RETRYCOUNT'
  sids[#sids + 1] = int(now)
  sids[#sids + 1] = 'JUSTID'
  call('XCLAIM', tasks_stream, group, me, 0, unpack(sids))
  call('SET', claim, fences, 'PX', ARGV[4])
end
return lent()
