-- Take from a token bucket, or say how long until that is possible.
-- KEYS: <bucket>
-- ARGV: us until an empty bucket is full again, us that this take costs
-- Returns 0 taken, else us until the same take would pass.
-- The bucket is one number: when it will be full (us, server clock). So it expires by
-- itself the moment it says nothing any more, and a full bucket needs no key at all.
local span, cost = tonumber(ARGV[1]), tonumber(ARGV[2])
local t = call('TIME')
local now = t[1] * 1000000 + t[2]
local full_at = math.max(tonumber(call('GET', bucket) or 0) or 0, now)
local latest = now + span
if full_at <= latest and full_at + cost > latest then return full_at + cost - latest end
-- Later than any take could have left it: the server's clock was set back. The bucket
-- counts as empty from now on, or it would stay locked for as long as the clock jumped.
local taken = full_at <= latest
full_at = taken and full_at + cost or latest
-- The release in front lets this pass at maxmemory: agents must be able to report then.
call('DEL', bucket)
call('SET', bucket, int(full_at), 'PX', int(math.ceil((full_at - now) / 1000)))
return taken and 0 or cost
