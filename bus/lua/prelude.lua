-- Shared by the verbs: the record, the clock, counters, and how a task's stay ends. A
-- verb gets the head and those functions that it names, directly or through others.
-- Records are `sid|attempt|epoch|n|lost|flags|options`; `attempt` counts failed ones.
-- Lua never decodes a payload; JSON written here is joined from opaque pieces.
local call = redis.call
local floor, fmt, find = math.floor, string.format, string.find
local match, gmatch = string.match, string.gmatch
local HANDED = '~'

local function now_ms()
  local t = call('TIME')
  return t[1] * 1000 + floor(t[2] / 1000)
end

local function int(x) return fmt('%d', x) end

-- A bound from `settings`; `other` where somebody wrote something else there by hand.
local function bound_of(text, other)
  return text and #text < 16 and match(text, '^%d+$') or other
end

-- Whether the server takes this for the id of one entry; two parts of 64 bits are.
local function is_sid(text)
  local ms, seq = match(text, '^(%d+)%-(%d+)$')
  return ms ~= nil and (#ms < 20 or #ms == 20 and ms <= '18446744073709551615')
    and (#seq < 20 or #seq == 20 and seq <= '18446744073709551615')
end

local function read_record(text)
  local sid, attempt, epoch, n, lost, flags, options =
    match(text, '^([^|]*)|(%d+)|(%d+)|(%d+)|(%d+)|([^|]*)|(.*)$')
  if not sid or sid ~= '' and not is_sid(sid) then return nil end
  return { sid = sid, attempt = tonumber(attempt), epoch = tonumber(epoch),
           n = tonumber(n), lost = tonumber(lost), flags = flags, options = options }
end

-- The record of a task that nobody was given yet.
local function new_record(sid)
  return { sid = sid, attempt = 0, epoch = 0, n = 0, lost = 0, flags = '', options = '' }
end

local function write_record(r)
  return r.sid .. '|' .. int(r.attempt) .. '|' .. int(r.epoch) .. '|' .. int(r.n)
    .. '|' .. int(r.lost) .. '|' .. r.flags .. '|' .. r.options
end

local function option(options, name)
  return match(',' .. options .. ',', ',' .. name .. '=([^,]*),')
end

-- The id of a task whose entry somebody else wrote: derived, so that it is always the
-- same (keys.foreign_id computes it in Python).
local function foreign_id(stream, sid)
  local h = redis.sha1hex(stream .. ' ' .. sid)
  return h:sub(1, 8) .. '-' .. h:sub(9, 12) .. '-5' .. h:sub(14, 16) .. '-8'
    .. h:sub(18, 20) .. '-' .. h:sub(21, 32)
end

-- One entry as {id, json, meta, foreign}; our own are exactly these three fields. A meta
-- that is none of ours is kept as `odd`: whoever takes the entry makes it a dead letter
-- (foreign.payload_of in Python knows the same form).
local function as_entry(stream, sid, flat)
  local odd
  if #flat == 6 and flat[1] == 'id' and flat[3] == 'json' and flat[5] == 'meta' then
    local meta = flat[6]
    if meta == '' or match(meta, '^e=%d+$') or match(meta, '^e=%d+,') then
      return { id = flat[2], json = flat[4], meta = meta }
    end
    odd = meta
  end
  local json = ''
  for i = 1, #flat, 2 do if flat[i] == 'json' then json = flat[i + 1] end end
  return { id = foreign_id(stream, sid), json = json, meta = '', odd = odd,
           foreign = true }
end

local function entry(stream, sid)
  local rows = call('XRANGE', stream, sid, sid)
  return rows[1] and as_entry(stream, sid, rows[1][2])
end

-- Flat names and values, as the server gives them, as a table.
local function facts_of(flat)
  local facts = {}
  for i = 1, #flat, 2 do facts[flat[i]] = flat[i + 1] end
  return facts
end

-- The fields of a letter as a table, or nil when it is gone.
local function letter_of(stream, sid)
  local rows = is_sid(sid) and call('XRANGE', stream, sid, sid) or {}
  return rows[1] and facts_of(rows[1][2])
end

-- The entry up to which a group was given entries; 0-0 where there is no group.
local function last_delivered(stream, group)
  local groups = group and redis.pcall('XINFO', 'GROUPS', stream) or {}
  for _, flat in ipairs(groups.err and {} or groups) do
    local facts = facts_of(flat)
    if facts.name == group then return facts['last-delivered-id'] end
  end
  return '0-0'
end

-- The agent id in the name of a consumer, if it is a process of our runtime; else nil. A
-- name by hand may have a `#` as well (keys.py knows the same forms).
local function of_runtime(name)
  return match(name, '^(%w[%w:._@-]*)#%x%x%x%x%x%x%x%x$')
end

-- Likewise of an agent over HTTP.
local function over_http(name)
  return match(name, '^(%w[%w:._@-]*)#http:%d%d?%d?%d?%d?$')
end

local function agent_of(name) return of_runtime(name) or over_http(name) or name end

local function agent_json(name)
  return '"' .. agent_of(name):gsub('[^%w:._@#-]', '?') .. '"'
end

-- Whether a row of XINFO CONSUMERS is an agent by hand with a sign of life within so many
-- ms. Those of the runtime are known by their registration, which ends with them.
local function reads_by_hand(facts, alive_ms)
  return facts.name ~= HANDED and facts.idle < alive_ms and not of_runtime(facts.name)
end

-- The result row behind a score of the done index, and all fields of its entry; nil when
-- it is trimmed or there is none. A saturated sequence (see done_score) means a look
-- through its millisecond.
local function ended_row(stream, score, id)
  local ms = floor(score / 4096)
  if ms < 0 or ms > 253402300799999 then return nil end -- by hand: no time at all
  local seq = score - ms * 4096
  local from = int(ms) .. '-' .. int(seq)
  local rows = call('XRANGE', stream, from, seq == 4095 and int(ms) or from)
  for i = 1, #rows do
    if rows[i][2][2] == id then return rows[i][2][4], rows[i][2] end
  end
  return nil
end

-- One delivery more in `out`, as claim, recover and lend give them.
local function deliver(out, sid, e, record)
  local at = #out
  out[at + 1], out[at + 2], out[at + 3] = sid, e.id, e.json
  out[at + 4], out[at + 5] = e.odd or e.meta, record
end

-- The consumer that holds an entry in the group's pending list, or nil.
local function holder(stream, group, sid)
  local rows = redis.pcall('XPENDING', stream, group, sid, sid, 1)
  if rows.err or not rows[1] then return nil end
  return rows[1][2]
end

-- Whether this consumer holds the entry now. No group (somebody destroyed it) is no row:
-- the entry comes again in the next group.
local function holds(stream, group, sid, consumer)
  local rows = redis.pcall('XPENDING', stream, group, sid, sid, 1, consumer)
  return not rows.err and #rows == 1
end

-- An entry out of its stream, and out of the pending list of the group, if there is one.
local function leave(stream, group, sid)
  if group then call('XACK', stream, group, sid) end
  call('XDEL', stream, sid)
end

-- An entry that stands for no live task (any more): out, and counted.
local function drop(k, group, sid)
  leave(k.stream, group, sid)
  call('HINCRBY', k.counters, 'orphans', 1)
end

-- When a row of a pending list was lent over HTTP (ms; see lend); nil of all others.
local function lent_ms(row)
  return over_http(row[2]) and row[4] >= 1000000000000 and row[4] or nil
end

-- When a task was first accepted: from its meta, else the clock in its first sid.
local function enqueued_ms(meta, sid)
  return match(meta, 'e=(%d+)') or match(sid, '^(%d+)') or '0'
end

local function with_enqueued(meta, sid)
  if match(meta, 'e=%d+') then return meta end
  local mark = 'e=' .. enqueued_ms(meta, sid)
  if meta == '' then return mark end
  return meta .. ',' .. mark
end

-- ISO 8601 in UTC of ms since 1970 (days to civil date after Hinnant).
local function iso(ms)
  ms = tonumber(ms)
  local s = floor(ms / 1000)
  local days, rest = floor(s / 86400), s % 86400
  local z = days + 719468
  local era = floor(z / 146097)
  local doe = z - era * 146097
  local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524)
    - floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
  local mp = floor((5 * doy + 2) / 153)
  local d = doy - floor((153 * mp + 2) / 5) + 1
  local m = mp < 10 and mp + 3 or mp - 9
  local y = yoe + era * 400 + (m <= 2 and 1 or 0)
  return fmt('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', y, m, d, floor(rest / 3600),
    floor(rest / 60) % 60, rest % 60, ms % 1000)
end

-- A result entry id as the one number the done index sorts by. The sequence saturates:
-- a clock that stood still for 4,096 results makes a look-up scan that millisecond.
local function done_score(entry_id)
  local ms, seq = match(entry_id, '^(%d+)-(%d+)$')
  return int(ms * 4096 + math.min(tonumber(seq), 4095))
end

-- Counts of a minute: `d`one, re`t`ried, `x` dead, `l`ost leases, w<b> and r<b> log2
-- buckets of wait and run time in ms. Few of many change: cheaper to put each in than to
-- take the row apart.
local function counted(row, name, count)
  name = ' ' .. name .. '='
  local from, to = find(row, name, 1, true)
  local was = from and match(row, '^%d+', to + 1)
  -- The first of its kind; or somebody wrote something else there.
  if not was then return row:gsub(name .. '%S*', '') .. name .. fmt('%d', count) end
  return row:sub(1, to) .. fmt('%d', was + count) .. row:sub(to + 1 + #was)
end

local function add_counts(key, field, stamp, old, add)
  local row = old and match(old, '^%d+') == stamp and old or stamp
  for name, count in pairs(add) do row = counted(row, name, count) end
  call('HSET', key, field, row)
end

-- Add counts to this minute. Its row begins with `A`, what the topic had accepted before
-- it, so that a send need not count here; nil only makes sure of that row, ahead of the
-- counter. A minute that is over is added to its hour by the first call after it, so the
-- common call touches one field. `now` may be the time in the id of an entry, which is ahead
-- of the clock where somebody wrote one that is: a new minute is begun by the clock alone.
local function tally(minutes_key, hours_key, counters_key, now, add, sure)
  if add and next(add) == nil then return end
  local minute = floor(now / 60000)
  local stamp, field = int(minute), int(minute % 180)
  local seen = call('HMGET', minutes_key, field, 'last')
  local row, last = seen[1], tonumber(seen[2] or '') or 0
  if minute ~= last and not sure then
    return tally(minutes_key, hours_key, counters_key, now_ms(), add, true)
  end
  -- A clock that was put back opens no minute again which the ring still has.
  if minute > last or last - minute > 180 then
    local accepted = match(call('HGET', counters_key, 'accepted') or '', '^%d+$') or '0'
    call('HSET', minutes_key, 'last', stamp)
    local ended = call('HGET', minutes_key, int(last % 180))
    if ended and match(ended, '^%d+') == seen[2] then
      local over, hour = {}, floor(last / 60)
      for name, count in gmatch(ended, '(%l%d*)=(%d+)') do over[name] = tonumber(count) end
      over.a = math.max(0, accepted - (match(ended, ' A=(%d+)') or accepted))
      local slot = int(hour % 720)
      add_counts(hours_key, slot, int(hour), call('HGET', hours_key, slot), over)
    end
    row = stamp .. ' A=' .. accepted
  elseif not add then
    return
  end
  add_counts(minutes_key, field, stamp, row, add or {})
end

-- One line of the event log. A log that somebody made useless stops nobody.
local function note(events_key, what, id, detail)
  redis.pcall('XADD', events_key, 'MAXLEN', '~', '10000', '*',
    'event', what, 'id', id, 'detail', detail or '')
end

-- One attempt or lost lease appended to a task's history, newest 50 kept.
local function remember(attempts_key, id, line)
  local old = call('HGET', attempts_key, id)
  if old then
    local lines, count = old .. '\n' .. line, 1
    for _ in gmatch(lines, '\n') do count = count + 1 end
    while count > 50 do
      lines = match(lines, '^[^\n]*\n(.*)$')
      count = count - 1
    end
    line = lines
  end
  call('HSET', attempts_key, id, line)
end

-- A letter into the dead stream, its index and its failure group; one that somebody wrote by
-- hand has none. The caller released the entry before (that first write passes at maxmemory).
-- A letter that comes `back` died then (ms), and has been counted by its group.
local function bury(k, now, letter)
  local dead_id = call('XADD', k.dead, '*', 'id', letter.id, 'json', letter.json,
    'error', letter.error, 'fp', letter.fp, 'fence', letter.fence,
    'attempts', letter.attempts, 'meta', letter.meta, unpack(letter.more or {}))
  call('HSET', k.dead_index, letter.id, dead_id)
  if letter.more and letter.more[1] == 'alias' then
    call('HSET', k.dead_index, 'alias:' .. letter.more[2], dead_id)
  end
  if letter.fp == '' then return dead_id end
  call('ZADD', k.group, int(now), dead_id)
  local first, last, total = letter.back or now, letter.back or now, 0
  local old = call('HGET', k.errors, letter.fp)
  local old_first, old_last, old_total = match(old or '', '^(%d+)|(%d+)|(%d+)|')
  if old_first then
    first, total = math.min(first, old_first), tonumber(old_total)
    if letter.back then last = math.max(last, old_last) end
  end
  if not (old and letter.back) then total = total + 1 end
  call('HSET', k.errors, letter.fp,
    int(first) .. '|' .. int(last) .. '|' .. int(total) .. '|' .. letter.error)
  return dead_id
end

-- Facts of a failure group go when its last letter goes.
local function unbury(k, letter, dead_id)
  call('XDEL', k.dead, dead_id)
  call('HDEL', k.dead_index, letter.id)
  if letter.alias then call('HDEL', k.dead_index, 'alias:' .. letter.alias, letter.alias) end
  call('ZREM', k.group, dead_id)
  if call('EXISTS', k.group) == 0 then call('HDEL', k.errors, letter.fp or '') end
end

-- Back to work from its letter: attempts from zero, the history kept and told of it. The
-- caller has begun with a release. `again`: payload json, options, epoch (next), request
-- mark, end of the line in the history. Returns the new entry id.
local function revive(k, now, id, letter, dead_id, again)
  local from = match(letter.meta or '', 'e=%d+') or ''
  local sid = call('XADD', k.stream, '*', 'id', id, 'json', again.json, 'meta', from)
  unbury(k, letter, dead_id)
  call('HSET', k.tasks, id, sid .. '|0|' .. again.epoch .. '|0|0||' .. again.options)
  if (letter.attempts or '') ~= '' then call('HSET', k.attempts, id, letter.attempts) end
  remember(k.attempts, id, '{"replay":' .. again.epoch .. ',"mark":"' .. again.mark
    .. '","at":"' .. iso(now) .. '",' .. again.line)
  note(k.events, 'replayed', id)
  return sid
end

-- Whether text that somebody else wrote is JSON in UTF-8. cjson takes more than that
-- (NaN, 0x1, 01, raw bytes), so what is left of it without strings is looked at too. The
-- decoded value is never used.
local function is_json(text)
  if not pcall(cjson.decode, text) then return false end
  local ascii = text:gsub('[\194-\223][\128-\191]', '')
    :gsub('[\224-\239][\128-\191][\128-\191]', '')
    :gsub('[\240-\244][\128-\191][\128-\191][\128-\191]', '')
  if match(ascii, '[\128-\255]') then return false end
  local bare = ascii:gsub('\\.', ''):gsub('"[^"]*"', '')
  for token in gmatch(bare, '[^%s,:%[%]{}]+') do
    if token ~= 'true' and token ~= 'false' and token ~= 'null' then
      local digits, rest = match(token, '^%-?(%d+)(.*)$')
      if not digits or match(digits, '^0%d') then return false end
      rest = rest:gsub('^%.%d+', ''):gsub('^[eE][+-]?%d+$', '')
      if rest ~= '' then return false end
    end
  end
  return true
end

-- The entry's JSON, safe to join into ours: text that is none becomes a JSON string.
local function json_of(e)
  if not e then return 'null' end
  if not e.foreign or is_json(e.json) then return e.json end
  return cjson.encode((e.json:gsub('[\128-\255]', function(byte)
    return fmt('\\x%02x', byte:byte())
  end)))
end
