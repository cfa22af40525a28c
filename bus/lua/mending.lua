-- Which task an entry stands for, also where somebody tore the data apart by hand. Like
-- prelude.lua, carried by the verbs that name it.

-- How many tasks the books miss: more came than are there, or ended. Below 0 there are
-- some that never came.
local function missing(k)
  local c = call('HMGET', k.counters, 'accepted', 'adopted', 'done', 'discarded',
    'cancelled', 'settled')
  return (c[1] or 0) + (c[2] or 0) - call('HLEN', k.tasks) - call('XLEN', k.dead)
    - (c[3] or 0) - (c[4] or 0) - (c[5] or 0) - (c[6] or 0)
end

-- Whether the books cannot tell who is whose: they were deleted (`enqueue` notes that when
-- it begins new ones), or gave a place within the hour.
local function in_doubt(k)
  local c = call('HMGET', k.counters, 'accepted', 'doubt_at')
  local since = tonumber(c[2] or '')
  return not c[1] or since and now_ms() - since <= 3600000
end

-- Whether the books owe this place to a task, which the caller puts there. They only
-- count: while they miss one, whatever is found first gets its place, be it forged. So for
-- an hour after such a grant, and wherever they are gone or count less than is there, what
-- is found is counted as adopted rather than dropped: too many beats one lost.
local function owed(k)
  local off = missing(k)
  if off == 0 and not in_doubt(k) then return false end
  call('HSET', k.counters, 'doubt_at', int(now_ms()))
  if off <= 0 then call('HINCRBY', k.counters, 'adopted', 1) end
  return true
end

local function is_uuid(id)
  return #id == 36 and match(id, '^%x+%-%x+%-%x+%-%x+%-%x+$') ~= nil
end

-- One wound is closed: counted, and told to whoever asked (`k.told`).
local function mended(k, what, id)
  call('HINCRBY', k.counters, 'repaired', 1)
  call('HSET', k.counters, 'repaired_at', int(now_ms()))
  if k.events then note(k.events, 'repaired', id, what) end
  if k.told then k.told[#k.told + 1] = what .. ' ' .. id end
end

-- A record being sought carries `?` and the round of the audit that missed its payload.
local function without_mark(r)
  r.flags = r.flags:gsub('%?%d*', '')
  return r
end

-- An entry in our shape that its record does not name. The record is at fault if what it
-- names is gone, or if it is unreadable; one that is no more was lost if the books owe it
-- one. Otherwise the entry is a copy by hand: nil.
local function found_again(k, sid, e, r, text)
  if r then
    local sought = match(r.flags, '%?')
    if not sought and (r.sid == ''
        or call('XRANGE', k.stream, r.sid, r.sid)[1]) then
      return nil
    end
  elseif not is_uuid(e.id) or (not text and not owed(k)) then
    return nil
  end
  r = without_mark(r or new_record(sid))
  r.sid = sid
  text = write_record(r)
  call('HDEL', k.tasks, '')
  call('HSET', k.tasks, e.id, text)
  mended(k, 'record', e.id)
  return r, text
end

-- The record of an entry, or nil when the entry stands for no live task (any more). A
-- foreign entry becomes a task here, on first sight.
local function record_of(k, sid, e)
  local text = call('HGET', k.tasks, e.id)
  local r = text and read_record(text)
  if r and r.sid == sid then return r, text end
  if not r and (call('ZSCORE', k.done, e.id)
      or call('HEXISTS', k.dead_index, e.id) == 1) then return nil end
  if text or not e.foreign then return found_again(k, sid, e, r, text) end
  r = new_record(sid)
  text = write_record(r)
  call('HDEL', k.tasks, '')
  call('HSET', k.tasks, e.id, text)
  call('HINCRBY', k.counters, 'adopted', 1)
  return r, text
end

-- A wound that nobody can close without choosing: told, for a person to choose.
local function seen_only(k, what, id) k.seen[#k.seen + 1] = what .. ' ' .. id end

-- Whether one entry id is above another.
local function is_after(sid, other)
  local ms, seq = match(sid, '^(%d+)%-(%d+)$')
  local other_ms, other_seq = match(other, '^(%d+)%-(%d+)$')
  if ms ~= other_ms then return tonumber(ms) > tonumber(other_ms) end
  return tonumber(seq) > tonumber(other_seq)
end

-- Times by which nothing happens, as somebody wrote them into `delayed` or `done`: no
-- number of ms, or one beyond the year 9999. `unit`: what one ms is there.
local function no_times(key, unit)
  local most = fmt('(%.0f', 253402300800000 * unit)
  local found = call('ZRANGEBYSCORE', key, most, '+inf', 'LIMIT', 0, 100)
  for _, id in ipairs(call('ZRANGEBYSCORE', key, '-inf', '(0', 'LIMIT', 0, 100)) do
    found[#found + 1] = id
  end
  return found
end

-- Whether a stream's last id is no time: it takes no more entry then, or none that counts,
-- before it is renumbered. Asked before anything is taken from its place for what would be
-- written there. The facts come with two whole entries: for where that is rare.
local function is_at_its_end(stream)
  local info = redis.pcall('XINFO', 'STREAM', stream)
  return not info.err
    and tonumber(match(facts_of(info)['last-generated-id'], '^%d+')) > 253402300799999
end

-- End a task that was asked to be cancelled and is in nobody's hand, rather than give it to
-- somebody; false while no row can be written of it. `keep` rows, if the topic says nothing.
local function end_asked(k, id, r, e, group, keep)
  if is_at_its_end(k.results) then return false end
  keep = bound_of(call('HGET', k.settings, 'results_keep'), keep)
  call('HDEL', k.tasks, '')
  cancelled(k, match(k.stream, '{(.*)}'), id, r, e, keep, now_ms())
  leave(k.stream, group, r.sid)
  return true
end

-- Where the audit of one half of a topic is, or nil when its next look is not due, or the
-- topic is none: somebody deleted it. The clock of the server may have been set back: then
-- the look is due.
local function walk_of(k, audit_key, half, now, pace)
  if call('EXISTS', k.stream, k.tasks, k.dead, k.counters, k.settings) == 0 then return nil end
  if call('TYPE', audit_key).ok ~= 'hash' then call('DEL', audit_key) end
  local was = call('HMGET', audit_key, half .. '.next', half .. '.round', half .. '.place',
    half .. '.at', half .. '.seen')
  local due = tonumber(was[1] or 0)
  if pace > 0 and now < due and due - now <= pace then return nil end
  call('HDEL', audit_key, '')
  call('HSET', audit_key, half .. '.next', int(now + pace))
  return { round = tonumber(was[2] or 1), place = tonumber(was[3] or 1),
           at = was[4] or '0', seen = tonumber(was[5] or 0) }
end

-- After a stretch of one place; whether that was the end of the round.
local function step_on(mine, places)
  if mine.at ~= '0' then return false end
  mine.place = mine.place + 1
  if mine.place <= places then return false end
  mine.place, mine.round = 1, mine.round + 1
  return true
end

-- Keep where to go on, with what this round only saw; what the caller is told.
local function walked(k, audit_key, half, mine, ended)
  mine.seen = mine.seen + #k.seen
  call('HSET', audit_key, half .. '.round', int(mine.round), half .. '.place',
    int(mine.place), half .. '.at', mine.at, half .. '.seen', int(ended and 0 or mine.seen))
  if ended then call('HSET', audit_key, half .. '.told', int(mine.seen)) end
  local off = missing(k)
  local news = off ~= tonumber(call('HGET', audit_key, 'drift') or 0)
  if news then call('HSET', audit_key, 'drift', int(off)) end
  return { int(mine.round), ended and 1 or 0, int(off), news and 1 or 0, k.told, k.seen }
end

-- A key that holds another kind of value stops every verb that touches it, and what it
-- held is overwritten already. `kinds`: what it should be -> keys.
local function unlink_misfits(k, kinds)
  local gone = {}
  for kind, names in pairs(kinds) do
    for i = 1, #names do
      local is = call('TYPE', names[i]).ok
      if is ~= kind and is ~= 'none' then
        call('UNLINK', names[i])
        gone[#gone + 1] = names[i] .. ' (' .. is .. ')'
      end
    end
  end
  for i = 1, #gone do mended(k, 'type', gone[i]) end
end

-- A counter that is no number would stop half-way whoever counts. All of them go before
-- the first is told: telling counts as well.
local function drop_miscounts(k)
  local flat, gone = call('HGETALL', k.counters), {}
  for i = 1, #flat, 2 do
    local name, value = flat[i], flat[i + 1]
    local text = name == 'group' or name == 'settle_mark'
    if not text and (#value > 16 or not match(value, '^%-?%d+$')) then
      call('HDEL', k.counters, name)
      gone[#gone + 1] = name
    end
  end
  for i = 1, #gone do mended(k, 'counter', gone[i]) end
end

-- The working group is made or named once more. Who has what in hand stood in the pending
-- list that is gone, so all that was sent up to here gets a new fence when it is next given
-- (`renewed`, see claim): nobody else has the fence of its next run.
local function regrouped(k, settings_key, what, name)
  local last = call('XREVRANGE', k.stream, '+', '-', 'COUNT', 1)[1]
  call('HSET', settings_key, 'group', name, 'renewed', last and last[1] or '0-0')
  mended(k, what, name)
end

-- The working group; where the settings were deleted, the one the counters know, else the
-- group that has agents of our runtime (those by hand name theirs with every read).
local function working_group(k, settings_key)
  local name = call('HGET', settings_key, 'group')
  if name then return name end
  local found = call('HGET', k.counters, 'group')
  if found then
    regrouped(k, settings_key, 'settings', found)
    return found
  end
  local groups = redis.pcall('XINFO', 'GROUPS', k.stream)
  if groups.err or #groups == 0 then return nil end
  for _, flat in ipairs(groups) do
    local group_name = facts_of(flat).name
    local ours
    for _, row in ipairs(call('XINFO', 'CONSUMERS', k.stream, group_name)) do
      local who = facts_of(row).name
      ours = ours or who == HANDED or agent_of(who) ~= who
    end
    if ours and call('HEXISTS', settings_key, 'observer:' .. group_name) == 0 then
      if found then return nil end
      found = group_name
    end
  end
  if found then regrouped(k, settings_key, 'settings', found) end
  return found
end
