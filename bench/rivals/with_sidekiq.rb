# Sidekiq: one process with its usual ten threads. It keeps no results, so a round trip
# ends where the job pushes a reply for which its sender waits.
require "json"
require "sidekiq"

URL = ENV.fetch("BENCH_URL")
FIRST = ENV.fetch("BENCH_FIRST", "0").to_i
LAST = ENV.fetch("BENCH_LAST", "0").to_i
WARM = 100
BATCH = 100
REPLIES = "bench:replies".freeze
Sidekiq.configure_server { |config| config.redis = { url: URL } }
Sidekiq.configure_client { |config| config.redis = { url: URL } }

$lock = Mutex.new
$runs = 0

def ran
  number = $lock.synchronize { $runs += 1 }
  return unless number == FIRST || number == LAST

  at_s = Process.clock_gettime(Process::CLOCK_REALTIME)
  Sidekiq.redis { |redis| redis.hset("bench:marks", number.to_s, at_s.to_s) }
end

class Noop
  include Sidekiq::Worker

  def perform(_payload, reply = false)
    ran
    Sidekiq.redis { |redis| redis.lpush(REPLIES, "1") } if reply
  end
end

def payload(number)
  { "action" => "resize", "image" => format("uploads/2024/11/%010d.png", number),
    "width" => 640, "height" => 480, "quality" => 0.85, "tags" => %w[thumbnail square],
    "requested_by" => "user-000042", "note" => "x" * 21 }
end

def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

def timed
  began = now
  yield
  now - began
end

def trip(number)
  Noop.perform_async(payload(number), true)
  Sidekiq.redis { |redis| redis.brpop(REPLIES, timeout: 10) }
end

if $PROGRAM_NAME == __FILE__
  verb, count = ARGV[0], ARGV[1].to_i
  WARM.times { |number| verb == "trip" ? trip(number) : Noop.perform_async(payload(number)) }
  numbers = (WARM...(WARM + count))
  figures =
    case verb
    when "trip" then numbers.map { |number| timed { trip(number) } }
    when "many"
      [timed do
        numbers.each_slice(BATCH) do |some|
          Sidekiq::Client.push_bulk("class" => Noop, "args" => some.map { |number| [payload(number)] })
        end
      end]
    else [timed { numbers.each { |number| Noop.perform_async(payload(number)) } }]
    end
  puts JSON.generate(figures)
end
