-- Sends requests whose headers and body come from a file, a line for each request, in turn. All requests are built
-- before the clock starts, so that every run costs the load generator the same.
--
-- Arguments: method, path, columns, file, number of lines to skip, number of lines to use, pause of each connection
-- before each request in ms. Columns are names of headers, or "(body)", separated by commas; in the file they are
-- separated by tabs.
-- Prints a summary of the answers as one line of JSON.

local requests, n_requests, current = {}, 0, 0

-- Splits a text at a character; empty parts are dropped.
local function split(text, separator)
  local parts = {}
  for part in text:gmatch("[^" .. separator .. "]+") do parts[#parts + 1] = part end
  return parts
end

function init(args)
  local method, path, columns, file = args[1], args[2], split(args[3], ","), args[4]
  local first, last = tonumber(args[5]) + 1, tonumber(args[5]) + tonumber(args[6])
  local pause_ms = tonumber(args[7])
  -- wrk calls `delay` before each request if it is defined.
  if pause_ms > 0 then function delay() return pause_ms end end
  local n_lines = 0
  for line in io.lines(file) do
    n_lines = n_lines + 1
    if n_lines > last then break end
    if n_lines >= first then
      local headers, body, values = {}, nil, split(line, "\t")
      for i, column in ipairs(columns) do
        if column == "(body)" then
          headers["Content-Type"], body = "application/json", values[i]
        else
          headers[column] = values[i]
        end
      end
      n_requests = n_requests + 1
      requests[n_requests] = wrk.format(method, path, headers, body)
    end
  end
end

function request()
  current = current % n_requests + 1
  return requests[current]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"duration_us":%d,"p50_us":%d,"p99_us":%d', summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99)))
  io.write(string.format(
    ',"unconnected":%d,"unread":%d,"unwritten":%d,"refused":%d,"late":%d}\n',
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
