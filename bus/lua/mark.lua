-- A write of no meaning, so that WAIT on this connection covers whatever came before it.
-- KEYS: counters
-- Returns the id of the server's run: another server, or this one restarted, has another.
call('HDEL', counters, '') -- passes at maxmemory, and what follows it does too
call('HINCRBY', counters, 'marks', 1)
return match(call('INFO', 'server'), 'run_id:(%x+)')
