-- How deliveries stand by their fences: held, or what became of their tasks.
-- Reads only.
-- KEYS: tasks_stream tasks settings done results attempts dead dead_index
-- ARGV: '1' with payloads, then per task: sid, n, id
-- Returns {now, working group or '', timeout_s of the topic or '', then per task six:
--   'held', consumer, record, meta, ms since 1970 when it was lent, json or ''
--   'live', '', record, failed attempts, '', ''       the fence is not held any more
--   'done', '', result row, failed attempts, '', ''   ended with a row
--   'dead', '', fence of its letter, failed attempts, '', ''
--   'gone', '', '', '', '', ''                        nobody knows (any more)
local now, group = now_ms(), call('HGET', settings, 'group') or ''
local out = { now, group, call('HGET', settings, 'timeout_s') or '' }

local function tell(...)
  for _, value in ipairs({ ... }) do out[#out + 1] = value end
end

local function look(sid, n, id)
  local text = call('HGET', tasks, id)
  local r = text and read_record(text)
  if r then
    if r.sid == sid and r.n == tonumber(n) then
      local rows = redis.pcall('XPENDING', tasks_stream, group, sid, sid, 1)
      local e = not rows.err and rows[1] and rows[1][2] ~= HANDED and entry(tasks_stream, sid)
      if e then
        local json = ARGV[1] == '1' and json_of(e) or ''
        return tell('held', rows[1][2], text, e.meta, int(rows[1][4]), json)
      end
    end
    return tell('live', '', text, call('HGET', attempts, id) or '', '', '')
  end
  local score = call('ZSCORE', done, id)
  if score then
    local row, flat = ended_row(results, score, id)
    return tell('done', '', row or '', row and facts_of(flat).attempts or '', '', '')
  end
  local dead_id = call('HGET', dead_index, id)
  local letter = dead_id and match(dead_id, '^%d+%-%d+$') and letter_of(dead, dead_id)
  if letter then
    return tell('dead', '', letter.fence or '', letter.attempts or '', '', '')
  end
  tell('gone', '', '', '', '', '')
end

for i = 2, #ARGV, 3 do look(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
return out
