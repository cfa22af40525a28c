-- Accept up to 100 tasks that are new and due now: what nearly every call brings, at two
-- thirds of the cost of `enqueue`.
-- KEYS: tasks_stream tasks done dead_index dead counters settings minutes
-- ARGV: as of `enqueue`, with four parts per task, all of them due now.
-- Returns per task its sid; or false, with all as it was: an id is known, a bound is
--   reached, the minute has no row yet, the books have not begun. `enqueue` decides then.

-- Asked for even where the id was made for the call: what a broken connection still
-- delivers may come after its repeat.
local ids, count = {}, (#ARGV - 4) / 4
for n = 1, count do ids[n] = ARGV[1 + n * 4] end
if count == 1 then
  local id = ids[1]
  if call('HEXISTS', tasks, id) == 1 or call('ZSCORE', done, id)
    or call('HEXISTS', dead_index, id) == 1 then return false end
else
  local records = call('HMGET', tasks, unpack(ids))
  local finished = call('ZMSCORE', done, unpack(ids))
  local buried = call('HMGET', dead_index, unpack(ids))
  local twice = {}
  for n = 1, count do
    if records[n] or finished[n] or buried[n] or twice[ids[n]] then return false end
    twice[ids[n]] = true
  end
end

local set = call('HMGET', settings, 'backlog_max', 'dead_max')
local most = tonumber(set[1] or '') or tonumber(ARGV[1])
if ARGV[3] ~= '' then most = math.min(most, tonumber(ARGV[3])) end
if not (call('HLEN', tasks) + count <= most) then return false end
if not (call('XLEN', dead) < (tonumber(set[2] or '') or tonumber(ARGV[2]))) then return false end
local last = call('HGET', minutes, 'last')

-- The first write: refused whole at maxmemory, and where there is no counter.
local begun, total = pcall(call, 'HINCRBY', counters, 'accepted', count)
if not begun then return false end
local sids, fresh, failed = {}, {}, total <= count
for n = 1, failed and 0 or count do
  local at = 1 + n * 4
  local ok, sid = pcall(call, 'XADD', tasks_stream, '*', 'id', ids[n], 'json', ARGV[at + 3], 'meta', '')
  if not ok then failed = sid break end
  sids[n], fresh[2 * n - 1], fresh[2 * n] = sid, ids[n], sid .. '|0|0|0|0||' .. ARGV[at + 2]
end
-- The clock of the entry is that of all here, or is ahead of it: somebody wrote such an id.
local function is_last(ms) return last == fmt('%d', floor(ms / 60000)) end
failed = failed or not (is_last(match(sids[1], '^%d+')) or is_last(now_ms()))
if failed then
  for _, sid in ipairs(sids) do call('XDEL', tasks_stream, sid) end
  if call('HINCRBY', counters, 'accepted', -count) == 0 then call('HDEL', counters, 'accepted') end
  return false
end
call('HSET', tasks, unpack(fresh))
return sids
