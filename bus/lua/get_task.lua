-- Everything known about one task, in one look.
-- Reads only.
-- KEYS: tasks_stream tasks delayed parked done dead_index dead attempts settings results events
-- ARGV: id
-- Returns {'live', record, json, meta, due or '', holder or '', attempts}
--   | {'done', flat fields, ms} | {'done', {}, ms, state} (trimmed, or none was written;
--   ms '' where somebody wrote no time)
--   | {'dead', dead id, flat fields} | {}.
local id = ARGV[1]
local text = call('HGET', tasks, id)
local r = text and read_record(text)
if r then
  local json, meta, due, who = '', '', '', ''
  if r.sid == '' then
    local kept = call('HGET', parked, id) or ''
    meta, json = parked_of(kept)
    meta, json = meta or '', json or kept
    due = call('ZSCORE', delayed, id) or ''
  else
    local e = entry(tasks_stream, r.sid)
    if e then json, meta = e.json or '', e.meta or '' end
    local working = call('HGET', settings, 'group')
    who = working and holder(tasks_stream, working, r.sid) or ''
  end
  return { 'live', text, json, meta, due, who, call('HGET', attempts, id) or '' }
end
local dead_id = call('HGET', dead_index, id)
if dead_id and is_sid(dead_id) then
  local rows = call('XRANGE', dead, dead_id, dead_id)
  return { 'dead', dead_id, rows[1] and rows[1][2] or {} }
end
local score = call('ZSCORE', done, id)
if not score then return {} end
local ms = floor(score / 4096)
if ms < 0 or ms > 253402300799999 then return { 'done', {}, '' } end -- by hand: no time
local _, found = ended_row(results, score, id)
if found then return { 'done', found, int(ms) } end
-- An agent by hand writes its result first and acks later: its row is near, not here.
local near = call('XREVRANGE', results, int(ms + 60000), int(ms - 60000), 'COUNT', 500)
for i = 1, #near do
  local flat, ours = near[i][2], false
  for j = 1, #flat, 2 do
    if flat[j] == 'id' and flat[j + 1] == id then ours = true end
  end
  if ours then return { 'done', flat, int(ms) } end
end
-- Without its row only the log of that moment still knows how it ended. Before 7.2 an
-- entry's id is of when it is written, which a busy machine may make later.
local ended = 'done'
local log = call('XRANGE', events, int(ms), int(ms + 25), 'COUNT', 500)
for i = 1, #log do
  local what, whom = log[i][2][2], log[i][2][4]
  if whom == id and (what == 'cancelled' or what == 'discarded') then ended = what end
end
return { 'done', {}, int(ms), ended }
