-- Delete what took the place of a list that all processes share.
-- KEYS: topics agents gone draining
-- Returns flat key, kind of what was deleted. Agents register again with their next beat,
-- janitors bring back the topics they know.
local kinds = { [topics] = 'set', [agents] = 'zset', [gone] = 'hash', [draining] = 'hash' }
local out = {}
for key, kind in pairs(kinds) do
  local is = call('TYPE', key).ok
  if is ~= kind and is ~= 'none' then
    call('UNLINK', key)
    out[#out + 1] = key
    out[#out + 1] = is
  end
end
return out
