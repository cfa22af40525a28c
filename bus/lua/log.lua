-- Stands in for `redis.call` in scripts that tests have write down what they do
-- (MESH_TRANSITION_LOG): every write that moves a task goes to the topic's log as well, in
-- the same step, so the log holds all transitions in the order in which they happened.
-- The verb and the keys it is to watch are filled in where scripts are loaded.
local first
local watched = { @watched }
local writes = { HSET = 1, HDEL = 1, ZADD = 1, ZREM = 1, XADD = 1, XDEL = 1 }
local call = function(...)
  local reply = redis.call(...)
  local command, key = ...
  if writes[command] and watched[key] then
    -- After the first write, which decides whether the script goes through at maxmemory.
    local at = redis.call('XADD', log, 'MAXLEN', '~', '1000000', '*', 'verb', '@verb',
      'call', first or '', 'command', command, 'key', watched[key],
      'reply', tostring(reply), 'args', table.concat({ select(3, ...) }, '\n'))
    first = first or at
  end
  return reply
end
