-- wrk script: replays signed request paths from a file, round robin, and counts the answers that fail.
-- Environment: PATHS (file, one path per line), METHOD, BODY_BYTES (for PUT).
local threads = {}

function setup(thread)
  thread:set("number", #threads)
  table.insert(threads, thread)
end

function init()
  paths = {}
  for line in io.lines(os.getenv("PATHS")) do paths[#paths + 1] = line end
  method = os.getenv("METHOD")
  local size = tonumber(os.getenv("BODY_BYTES") or "0")
  if method == "PUT" then
    -- Bytes that do not compress, so that no store gains by compressing them.
    math.randomseed(7)
    local block = {}
    for i = 1, 65536 do block[i] = string.char(math.random(0, 255)) end
    block = table.concat(block)
    body = string.sub(string.rep(block, math.floor(size / #block) + 1), 1, size)
  end
  at = number * 997
  failed = 0
end

function request()
  at = at + 1
  return wrk.format(method, paths[at % #paths + 1], nil, body)
end

function response(status)
  if status < 200 or status > 299 then failed = failed + 1 end
end

function done(summary, latency)
  local failures = 0
  for _, thread in ipairs(threads) do failures = failures + thread:get("failed") end
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"seconds":%.3f,"bytes":%d,"failed":%d,"socket_errors":%d,"p50_ms":%.3f,"p99_ms":%.3f}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, failures,
    errors.connect + errors.read + errors.write + errors.timeout, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
