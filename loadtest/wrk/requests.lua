-- Requests that differ in one header only, whose values come from a file, line by line and in turn. They are put together
-- before the clock starts, so that all runs cost the load generator the same, whatever they ask for.
--
-- Arguments: method, path, header, file, how many lines to skip, how many to use, how many ms each connection pauses
-- before each request.
-- Prints what came back as one line of JSON.

local requests, n_requests, current = {}, 0, 0

function init(args)
  local method, path, header, file = args[1], args[2], args[3], args[4]
  local first, last = tonumber(args[5]) + 1, tonumber(args[5]) + tonumber(args[6])
  local pause_ms = tonumber(args[7])
  -- wrk looks whether there is such a function, and then calls it each time.
  if pause_ms > 0 then function delay() return pause_ms end end
  local n_lines = 0
  for line in io.lines(file) do
    n_lines = n_lines + 1
    if n_lines > last then break end
    if n_lines >= first then
      n_requests = n_requests + 1
      requests[n_requests] = wrk.format(method, path, {[header] = line})
    end
  end
end

function request()
  current = current % n_requests + 1
  return requests[current]
end

function done(summary)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"duration_us":%d,"unconnected":%d,"unread":%d,"unwritten":%d,"refused":%d,"late":%d}\n',
    summary.requests, summary.duration, errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
