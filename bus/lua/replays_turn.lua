-- A person changes the course of a bulk replay.
-- KEYS: <job>
-- ARGV: state it gets, states it may have before (with commas around each), seconds it is
--       kept, mark of this request, then more fields and values
-- Returns {'ok', fence}; {'not', state}; {} if it is gone. A repeated send is told by its
--   mark.
-- Its driver lets go of it: the next one to take it gets a newer fence still.
local state = call('HGET', job, 'state')
if not state then return {} end
local had = call('HMGET', job, 'turn', 'fence')
if had[1] == ARGV[4] then return { 'ok', tonumber(had[2]) } end
if not find(ARGV[2], ',' .. state .. ',', 1, true) then return { 'not', state } end
call('HDEL', job, 'driver')
local fence = call('HINCRBY', job, 'fence', 1)
local now = int(now_ms())
call('HSET', job, 'state', ARGV[1], 'turn', ARGV[4], 'told', now,
  unpack(ARGV, 5))
if ARGV[1] == 'running' then
  call('HDEL', job, 'ended')
  if call('HEXISTS', job, 'started') == 0 then call('HSET', job, 'started', now) end
else
  call('HSET', job, 'ended', now)
end
call('EXPIRE', job, ARGV[3])
return { 'ok', fence }
