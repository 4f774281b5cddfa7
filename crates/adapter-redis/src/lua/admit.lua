-- admit: lets the next people in, lowest numbers first; who is absent is put away and keeps the number.
--
-- ARGV: now, is shut (1 or 0), capacity, rate per second, tick, pass ttl, presence window, how many to examine at most.
-- Returns: examined, more (1 or 0), when the passes run out, two of each grant (number, account); nil if the line is lost.
-- Complexity: O(examined x log n).
-- Atomic, because popping and granting in two steps loses whoever is between them, and room read before is room gone.
if not enter(ARGV[1]) then return false end

local terms = read_terms(2)
local examine_max = tonumber(ARGV[8])
line.window = terms.window
local skips_absent = is_presence_trusted(terms.window)
local room_left = room(terms)
local n_examined = 0
local answer = {0, 0, line.now + terms.pass_ttl}
while room_left > 0 and n_examined < examine_max do
  -- Nobody is popped who could not be let in.
  local popped = redis.call('ZPOPMIN', WAITING, math.min(room_left, examine_max - n_examined))
  if #popped == 0 then break end
  for i = 1, #popped, 2 do
    local account, number = popped[i], tonumber(popped[i + 1])
    n_examined = n_examined + 1
    if skips_absent and not has_seen(terms.window, number) then
      line.serving = math.max(line.serving, number)
      redis.call('ZADD', AWAY, number, account)
    else
      grant(number, account, terms)
      room_left = room_left - 1
      answer[#answer + 1] = number
      answer[#answer + 1] = account
    end
  end
end
answer[1] = n_examined
if room_left > 0 and redis.call('EXISTS', WAITING) == 1 then answer[2] = 1 end
save()
return answer
