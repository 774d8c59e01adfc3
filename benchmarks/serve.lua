-- One POST /invocations over and over: BODY is a file, TYPE and ACCEPT are headers, PATH the path.
wrk.method = "POST"
local file = io.open(os.getenv("BODY"), "rb")
wrk.body = file:read("*a")
file:close()
wrk.path = os.getenv("TARGET")
wrk.headers["Content-Type"] = os.getenv("TYPE")
wrk.headers["Accept"] = os.getenv("ACCEPT")

function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format('{"per_s": %f, "p50_us": %d, "p99_us": %d, "failed": %d}\n',
    summary.requests / summary.duration * 1e6, latency:percentile(50), latency:percentile(99),
    failed))
end
