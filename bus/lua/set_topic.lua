-- Write or remove settings of a topic.
-- KEYS: settings events
-- ARGV: name, value ('' removes), …
call('HDEL', settings, '')
for i = 1, #ARGV, 2 do
  if ARGV[i + 1] == '' then call('HDEL', settings, ARGV[i])
  else call('HSET', settings, ARGV[i], ARGV[i + 1]) end
  note(events, 'setting', '', ARGV[i] .. '=' .. ARGV[i + 1])
end
return 1
