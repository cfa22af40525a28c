-- Give a stream ids that are times again, where somebody wrote one beyond all of them.
-- KEYS: counters events <stream> <aside>
-- ARGV: the last ms that is a time
-- Returns {flat what, name of what was mended}, empty where nothing had to be; or, as text,
--   why nothing was done.
-- Behind such an id no other can be added, or only ones as far from any clock. Entries under
-- it come again behind all others, under ids of now; groups keep what they were given. No
-- other way is left: XSETID does not go back behind an id that was deleted.
local last_ms = tonumber(ARGV[1])
local k = { counters = counters, events = events, told = {} }
local function is_time(sid) return tonumber(match(sid, '^%d+')) <= last_ms end

local info = redis.pcall('XINFO', 'STREAM', stream)
if info.err or is_time(facts_of(info)['last-generated-id']) then return {} end
local groups = {}
for _, flat in ipairs(call('XINFO', 'GROUPS', stream)) do
  local facts = facts_of(flat)
  groups[#groups + 1] = { name = facts.name, last = facts['last-delivered-id'],
    rows = call('XPENDING', stream, facts.name, '-', '+', 100000) }
end

-- Nothing leaves its place before it is sure that all of it can be written again.
if call('EXISTS', aside) == 1 then return 'what it held before is still in ' .. aside end
local at = '-'
repeat
  local rows = call('XRANGE', stream, at, '+', 'COUNT', 100)
  for i = 1, #rows do
    if #rows[i][2] > 7000 then
      return 'its entry ' .. rows[i][1] .. ' has more fields than one call can write'
    end
  end
  at = #rows == 100 and '(' .. rows[100][1]
until not at

call('RENAME', stream, aside)
local from, kept, beyond = '-', '0-0', {}
while true do
  local rows = call('XRANGE', aside, from, '+', 'COUNT', 100)
  for i = 1, #rows do
    local sid, flat = rows[i][1], rows[i][2]
    if is_time(sid) then
      kept = call('XADD', stream, sid, unpack(flat))
    else
      beyond[#beyond + 1] = flat
    end
  end
  if #rows < 100 then break end
  from = '(' .. rows[#rows][1]
end
for i = 1, #beyond do call('XADD', stream, '*', unpack(beyond[i])) end
for _, group in ipairs(groups) do
  call('XGROUP', 'CREATE', stream, group.name, is_time(group.last) and group.last or kept,
    'MKSTREAM')
  for _, row in ipairs(group.rows) do
    if is_time(row[1]) then
      call('XCLAIM', stream, group.name, row[2], 0, row[1], 'IDLE', row[3], 'RETRYCOUNT',
        row[4], 'FORCE', 'JUSTID')
    end
  end
end
call('UNLINK', aside)
mended(k, 'ids', stream)
return k.told
