-- Keep results, the done index and the bin within their bounds.
-- KEYS: results done bin settings
-- ARGV: results to keep, seconds a finished id is recognised at least, most index
--       entries, seconds a discarded letter is kept
-- Returns {index entries dropped, results dropped, bin entries dropped}.
-- By rank and id only: entries somebody else wrote into results never confuse it.
local now = now_ms()
local keep = tonumber(bound_of(call('HGET', settings, 'results_keep'), ARGV[1]))
local over = call('ZCARD', done) - keep
local dropped = 0
if over > 0 then
  local old = call('ZCOUNT', done, '-inf', int((now - ARGV[2] * 1000) * 4096))
  local most = call('ZCARD', done) - tonumber(ARGV[3])
  dropped = math.max(math.min(over, old), most)
  if dropped > 0 then call('ZREMRANGEBYRANK', done, 0, int(dropped - 1)) end
end
local results_gone = call('XTRIM', results, 'MAXLEN', '=', int(keep))
local bin_gone = call('XTRIM', bin, 'MINID', '=', int(now - ARGV[4] * 1000))
return { math.max(dropped, 0), results_gone, bin_gone }
