-- wrk script: sends signed request paths from a file, one after the other, and counts the answers that fail.
-- Environment: PATHS (file, one path per line), METHOD, BODY_BYTES (for PUT), ONCE (every path once, then a line
-- "ALL": end wrk with SIGINT). For one thread.
--
-- Millions of paths are made here, without signatures, instead: PATTERN (how a path looks, with its prefix and its number
-- as %d), FROM and TAKE (which of them), COUNT (how many there are in all), STEP (with 1 they come in order, with a number that
-- has no factor in common with COUNT each comes once, all over the place), PREFIXES.
--
-- No two bodies have the same 4 KiB at the same place: each is cut out of random bytes at another place, and every 4 KiB
-- of it carry the number of the request. So neither compression nor deduplication of blocks helps a store.
local ffi = require("ffi")
local POOL_BYTES = 16 * 1024 * 1024
local STAMP_EVERY_BYTES = 4096
local HEAD_BYTES_MAX = 4096
local threads = {}

function setup(thread) table.insert(threads, thread) end

function init()
  pattern = os.getenv("PATTERN")
  if pattern then
    from, total = tonumber(os.getenv("FROM")), tonumber(os.getenv("TAKE"))
    count, step, prefixes = tonumber(os.getenv("COUNT")), tonumber(os.getenv("STEP")), tonumber(os.getenv("PREFIXES"))
  else
    paths = {}
    for line in io.lines(os.getenv("PATHS")) do paths[#paths + 1] = line end
    total = #paths
  end
  method = os.getenv("METHOD")
  once = os.getenv("ONCE") ~= nil
  if once then delay = pause end
  size = method == "PUT" and tonumber(os.getenv("BODY_BYTES")) or nil
  if size then
    local source = io.open("/dev/urandom", "rb")
    pool = source:read(POOL_BYTES + size)
    local seed = source:read(4)
    source:close()
    pool_start = ffi.cast("const char *", pool)
    run = ffi.cast("const uint32_t *", seed)[0] * 4294967296ULL
    whole = ffi.new("char[?]", HEAD_BYTES_MAX + size)
  end
  at, taken, answered, failed = 0, 0, 0, 0
end

-- The path of a request; the first one has number 0.
function path_of(number)
  if not pattern then return paths[number % total + 1] end
  -- Whole numbers below 2^53 are exact.
  local index = (from + number % total) * step % count
  return string.format(pattern, index % prefixes, math.floor(index / prefixes))
end

-- With ONCE: how long a connection waits before its next request; for ever when all paths are taken.
function pause()
  if taken == total then return 3600000 end
  taken = taken + 1
  return 0
end

function request()
  -- wrk asks for one request in advance, which it does not send.
  if not once or taken > 0 then at = at + 1 end
  local path = path_of(math.max(at - 1, 0))
  if not size then return wrk.format(method, path) end
  local head = string.format(
    "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", method, path, wrk.headers["Host"], size)
  assert(#head <= HEAD_BYTES_MAX)
  local body = whole + #head
  ffi.copy(whole, head, #head)
  ffi.copy(body, pool_start + at * 8000024 % POOL_BYTES, size)
  for offset = 0, size - 8, STAMP_EVERY_BYTES do
    ffi.cast("uint64_t *", body + offset)[0] = run + at
  end
  return ffi.string(whole, #head + size)
end

function response(status)
  if status < 200 or status > 299 then failed = failed + 1 end
  answered = answered + 1
  if once and answered == total then
    io.write("ALL\n")
    io.flush()
  end
end

function done(summary, latency)
  local failures = 0
  for _, thread in ipairs(threads) do failures = failures + thread:get("failed") end
  local errors = summary.errors
  -- Latencies in microseconds, as wrk has them after its correction.
  local counts = {}
  if os.getenv("ONCE") then latency = {} end
  for index = 1, #latency do counts[index] = string.format("[%d,%d]", latency(index)) end
  io.write(string.format(
    'RESULT {"requests":%d,"microseconds":%d,"failed":%d,"socket_errors":%d,"timeouts":%d,"latency":[%s]}\n',
    summary.requests, summary.duration, failures, errors.connect + errors.read + errors.write, errors.timeout,
    table.concat(counts, ",")))
end
