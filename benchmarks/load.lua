-- The requests that wrk sends, and its result as one line of JSON.
--
-- Arguments: the kind of request, then
--   reports   ORDER RUN TOKEN    a report of a new message each; ORDER is growing or scattered
--   closing   ORDER RUN TOKEN    the same, each on a connection of its own
--   lookups   COUNT STEP KEY     one of COUNT known messages by its id
--   batches   COUNT STEP KEY     a thousand of them at once
--   page      PATH KEY           one path again and again
--
-- `benchmarks/load.py` makes the same ids from the same numbers.

-- The number of the latest request. Before it starts, wrk asks for number 0, which it doesn't send.
sent = -1

local HEAD = " HTTP/1.1\r\nHost: 127.0.0.1\r\n"
local GOLDEN = 2654435769  -- odd, so multiples of it visit every 32-bit number once, in no order
local SPREAD = 61803399  -- the same for numbers of eight digits: real recipients come in no order
local format = string.format

-- One report in ten is a failure; a handful of networks.
local networks = {"52099", "52501", "51503", "46001", "31026", "40410", "50219"}
local failures = {
  "status=404&statuscode=Absent%20Subscriber%20Temporary&errcode=2",
  "status=404&statuscode=Absent%20Subscriber%20Permanent&errcode=3",
  "status=404&statuscode=Anti-Spam%20Rejection&errcode=5",
  "status=401&statuscode=rejected",
}
local tails = {}
for i = 1, 140 do
  local what = "status=0&statuscode=delivered&errcode=1"
  if i % 10 == 0 then what = failures[i / 10 % #failures + 1] end
  tails[i] = format("&%s&network=%s%s", what, networks[i % #networks + 1], HEAD)
end

local function report(id, n, token, headers)
  return "GET /callback/paasoo/" .. token .. "?type=dlr&messageid=" .. id
    .. "&to=65" .. format("%08d", n * SPREAD % 100000000) .. tails[n % #tails + 1] .. headers .. "\r\n"
end

local makers = {}

local function new_reports(order, run, token, headers)
  run = tonumber(run)
  if order == "scattered" then
    return function(n) return report(format("%08x%06x", n * GOLDEN % 2^32, run), n, token, headers) end
  end
  return function(n) return report(format("f%05x%08x", run, n), n, token, headers) end
end

function makers.reports(order, run, token)
  return new_reports(order, run, token, "")
end

function makers.closing(order, run, token)
  return new_reports(order, run, token, "Connection: close\r\n")
end

local function known_id(count, step)
  return format("%08x000000", math.random(0, count - 1) * step)
end

function makers.lookups(count, step, key)
  count, step = tonumber(count), tonumber(step)
  local tail = HEAD .. "Authorization: Bearer " .. key .. "\r\n\r\n"
  return function() return "GET /v1/messages/" .. known_id(count, step) .. tail end
end

function makers.batches(count, step, key)
  count, step = tonumber(count), tonumber(step)
  local bodies = {}
  for i = 1, 50 do
    local ids = {}
    for j = 1, 1000 do ids[j] = '"' .. known_id(count, step) .. '"' end
    local body = '{"messageids": [' .. table.concat(ids, ", ") .. "]}"
    bodies[i] = "POST /v1/messages/lookup" .. HEAD .. "Authorization: Bearer " .. key
      .. "\r\nContent-Type: application/json\r\nContent-Length: " .. #body .. "\r\n\r\n" .. body
  end
  return function(n) return bodies[n % #bodies + 1] end
end

function makers.page(path, key)
  local whole = "GET " .. path .. HEAD .. "Authorization: Bearer " .. key .. "\r\n\r\n"
  return function() return whole end
end

local make

function init(args)
  math.randomseed(os.time())
  make = makers[args[1]](args[2], args[3], args[4])
end

function request()
  sent = sent + 1
  return make(sent)
end

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function done(summary, latency)
  local errors = summary.errors
  io.write(format(
    '\nRESULT {"sent": %d, "answered": %d, "refused": %d, "broken": %d,'
      .. ' "duration_us": %d, "p50_us": %d, "p99_us": %d}\n',
    threads[1]:get("sent"), summary.requests, errors.status,
    errors.connect + errors.read + errors.write,
    summary.duration, latency:percentile(50), latency:percentile(99)))
end
