-- Sends the bodies of a file, a line each, in turn. wrk's arguments after "--": path, file.

local requests, turn = {}, 0

function init(arguments)
  wrk.method = "POST"
  wrk.headers["content-type"] = "application/json"
  for line in io.lines(arguments[2]) do
    requests[#requests + 1] = wrk.format(nil, arguments[1], nil, line)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "duration_us": %d, "p50_us": %d, "p95_us": %d, "p99_us": %d, "max_us": %d,' ..
    ' "not_2xx": %d, "broken": %d}\n',
    summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(95), latency:percentile(99), latency.max,
    errors.status, errors.connect + errors.read + errors.write + errors.timeout))
end
