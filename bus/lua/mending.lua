-- Which task an entry stands for, also where somebody tore the data apart by hand. Like
-- prelude.lua, carried by the verbs that name it.

-- How many tasks the books miss: more came than are there, or ended. Below 0 there are
-- some that never came.
local function missing(k)
  local c = call('HMGET', k.counters, 'accepted', 'adopted', 'done', 'discarded',
    'cancelled')
  return (c[1] or 0) + (c[2] or 0) - call('HLEN', k.tasks) - call('XLEN', k.dead)
    - (c[3] or 0) - (c[4] or 0) - (c[5] or 0)
end

local function is_uuid(id)
  return #id == 36 and match(id, '^%x+%-%x+%-%x+%-%x+%-%x+$') ~= nil
end

-- One wound is closed: counted, and told to whoever asked (`k.told`).
local function mended(k, what, id)
  call('HINCRBY', k.counters, 'repaired', 1)
  if k.events then note(k.events, 'repaired', id, what) end
  if k.told then k.told[#k.told + 1] = what .. ' ' .. id end
end

-- A record being sought carries `?` and the round of the audit that missed its payload.
local function without_mark(r)
  r.flags = r.flags:gsub('%?%d*', '')
  return r
end

-- An entry in our shape that its record does not name. The record is at fault if what it
-- names is gone, or if it is unreadable; one that is no more was lost if the books miss a
-- task. Otherwise the entry is a copy by hand: nil.
local function found_again(k, sid, e, r, text)
  if r then
    local sought = match(r.flags, '%?')
    if not sought and (r.sid == '' or call('XRANGE', k.stream, r.sid, r.sid)[1]) then
      return nil
    end
  elseif not is_uuid(e.id) or (not text and missing(k) <= 0) then
    return nil
  end
  r = r or { attempt = 0, epoch = 0, n = 0, lost = 0, flags = '', options = '' }
  without_mark(r).sid = sid
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
  r = { sid = sid, attempt = 0, epoch = 0, n = 0, lost = 0, flags = '', options = '' }
  text = write_record(r)
  call('HDEL', k.tasks, '')
  call('HSET', k.tasks, e.id, text)
  call('HINCRBY', k.counters, 'adopted', 1)
  return r, text
end
