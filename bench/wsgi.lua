-- What wrk sends, and what it says at the end: one line of JSON.
--
--   wrk ... -s wsgi.lua URL -- REQUEST             sends the bytes of this file
--   wrk ... -s wsgi.lua URL -- REQUEST OTHER N     of N requests one, drawn at random, is the other; each is timed
--
-- wrk does not tell a response which request it answers. So a @ in a request becomes the instant at which it is sent,
-- after a q for the one or an s for the other, and the server's answer is just that.

local ffi = require("ffi")
ffi.cdef([[
  struct instant { long seconds, nanoseconds; };
  int clock_gettime(int, struct instant *);
]])
local instant = ffi.new("struct instant")

local function now() -- microseconds, of the monotonic clock
  ffi.C.clock_gettime(1, instant)
  return tonumber(instant.seconds) * 1e6 + tonumber(instant.nanoseconds) / 1e3
end

local function content(path)
  local file = assert(io.open(path, "rb"))
  local all = file:read("*a")
  file:close()
  return all
end

local threads = {}
function setup(thread)
  table.insert(threads, thread)
end

q, s, odd = {}, {}, 0 -- microseconds that each took; answers that are none

function init(arguments)
  local one = content(arguments[1])
  wrk.format = function() return one end
  if not arguments[2] then return end
  local other, of = content(arguments[2]), tonumber(arguments[3])
  math.randomseed(1)
  request = function()
    local which, name = one, "q"
    if math.random(of) == 1 then which, name = other, "s" end
    return (which:gsub("@", string.format("%s%.0f", name, now())))
  end
  response = function(status, headers, body)
    local name, sent = body:match("^([qs])(%d+)$")
    if sent then
      table.insert(name == "q" and q or s, now() - tonumber(sent))
    else
      odd = odd + 1
    end
  end
end

local function numbers(fields)
  local words = {}
  for name, value in pairs(fields) do
    table.insert(words, string.format('"%s": %.0f', name, value))
  end
  return "{" .. table.concat(words, ", ") .. "}"
end

function done(summary, latency)
  local found = {
    requests = summary.requests, bytes = summary.bytes, duration_us = summary.duration,
    p50_us = latency:percentile(50), p99_us = latency:percentile(99), odd = threads[1]:get("odd"),
  }
  local parts = {'"all": ' .. numbers(found), '"errors": ' .. numbers(summary.errors)}
  for _, name in ipairs({"q", "s"}) do
    local took = threads[1]:get(name)
    table.sort(took)
    if #took > 0 then
      local function at(share) return took[math.max(1, math.ceil(share * #took))] end
      table.insert(parts, string.format('"%s": %s', name, numbers({
        count = #took, p50_us = at(0.5), p99_us = at(0.99), max_us = took[#took],
      })))
    end
  end
  io.write("{", table.concat(parts, ", "), "}\n")
end
