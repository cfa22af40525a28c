-- Accept up to 100 tasks that nobody can know yet, at half the cost of `enqueue`.
-- Their ids were made for this call, which is sent once: a repeat goes through `enqueue`.
-- KEYS: tasks_stream tasks dead counters settings minutes
-- ARGV: as of `enqueue`, with four parts per task, all of them due now.
-- Returns per task its sid; or false, with all as it was: at a bound, in a minute without
--   a row yet, with books that have not begun. `enqueue` decides then.

local count = (#ARGV - 4) / 4
local set = call('HMGET', settings, 'backlog_max', 'dead_max')
local most = tonumber(set[1] or '') or tonumber(ARGV[1])
if ARGV[3] ~= '' then most = math.min(most, tonumber(ARGV[3])) end
if not (call('HLEN', tasks) + count <= most) then return false end
if not (call('XLEN', dead) < (tonumber(set[2] or '') or tonumber(ARGV[2]))) then return false end
local last = call('HGET', minutes, 'last')

-- The first write: refused whole at maxmemory, and where `counters` is no hash.
local begun = call('HINCRBY', counters, 'accepted', count) > count
local sids, fresh, failed = {}, {}, not begun
for n = 1, begun and count or 0 do
  local at = 1 + n * 4
  local ok, sid = pcall(call, 'XADD', tasks_stream, '*', 'id', ARGV[at], 'json', ARGV[at + 3], 'meta', '')
  if not ok then failed = sid break end
  sids[n], fresh[2 * n - 1], fresh[2 * n] = sid, ARGV[at], sid .. '|0|0|0|0||' .. ARGV[at + 2]
end
-- The clock of the entry is that of all here.
failed = failed or last ~= fmt('%d', floor(match(sids[1], '^%d+') / 60000))
if failed then
  for _, sid in ipairs(sids) do call('XDEL', tasks_stream, sid) end
  if call('HINCRBY', counters, 'accepted', -count) == 0 then call('HDEL', counters, 'accepted') end
  if failed == true then return false end
  -- A stream that takes no entry, or no hash. Valkey gives its own words, Redis a table.
  return redis.error_reply(type(failed) == 'table' and failed.err or failed)
end
call('HSET', tasks, unpack(fresh))
return sids
