-- Take from a token bucket up to so many times, or say how long until that is possible.
-- KEYS: <bucket>
-- ARGV: us until an empty bucket is full again, us that one take costs, how many takes
-- Returns {takes that were given, 0 if all were, else us until one more would pass}.
-- The bucket is one number: when it will be full (us, server clock). So it expires by
-- itself the moment it says nothing any more, and a full bucket needs no key at all.
local span, cost, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local t = call('TIME')
local now = t[1] * 1000000 + t[2]
local full_at = math.max(tonumber(call('GET', bucket) or 0) or 0, now)
local latest = now + span
local given = math.min(wanted, floor((latest - full_at) / cost))
if full_at <= latest and given == 0 then return { 0, full_at + cost - latest } end
-- Later than any take could have left it: the server's clock was set back. The bucket
-- counts as empty from now on, or it would stay locked for as long as the clock jumped.
if full_at > latest then given, full_at = 0, latest end
full_at = full_at + given * cost
-- The release in front lets this pass at maxmemory: agents must be able to report then.
call('DEL', bucket)
call('SET', bucket, int(full_at), 'PX', int(math.ceil((full_at - now) / 1000)))
return { given, given < wanted and full_at + cost - latest or 0 }
