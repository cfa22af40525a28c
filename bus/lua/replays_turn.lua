-- A person changes the course of a bulk replay.
-- KEYS: <job>
-- ARGV: state it gets, states it may have before (with commas around each), seconds it is
--       kept, then more fields and values
-- Returns {'ok', fence}; {'not', state}; {} if it is gone.
-- Its driver lets go of it: the next one to take it gets a newer fence still.
local state = call('HGET', job, 'state')
if not state then return {} end
if not find(ARGV[2], ',' .. state .. ',', 1, true) then return { 'not', state } end
call('HDEL', job, 'driver')
local fence = call('HINCRBY', job, 'fence', 1)
local now = int(now_ms())
call('HSET', job, 'state', ARGV[1], 'told', now, unpack(ARGV, 4))
if ARGV[1] == 'running' then
  call('HDEL', job, 'ended')
  if call('HEXISTS', job, 'started') == 0 then call('HSET', job, 'started', now) end
else
  call('HSET', job, 'ended', now)
end
call('EXPIRE', job, ARGV[3])
return { 'ok', fence }
