-- Take a bulk replay off the lists; of its letters nothing changes.
-- KEYS: replays open_replays <job>
-- ARGV: id
-- Returns 1 if it was there.
call('ZREM', open_replays, ARGV[1])
call('UNLINK', job)
return call('ZREM', replays, ARGV[1])
