-- admit: admits the next places, lowest numbers first. Puts absent places away, which keep their numbers.
--
-- ARGV: now, is shut (1 or 0), capacity, rate per second, tick, pass ttl, presence window, how many places to examine.
-- Returns: examined, more (1 or 0), when the passes expire, two of each grant (number, account); nil if the line is
--          lost.
-- Complexity: O(examined x log n), in a few calls of Redis for all places: a call costs more than its work on one.
-- Atomic, because a crash between popping and granting would lose places, and others could take the room meanwhile.
if not enter(ARGV[1]) then return false end

local terms = read_terms(2)
-- Lua bounds the number of arguments of a call, and `seen_among` needs three for each place.
local examine_max = math.min(tonumber(ARGV[8]), 2000)
line.window = terms.window
local skips_absent = is_presence_trusted(terms.window)
local room_left = room(terms)
local n_examined = 0
local answer = {0, 0, line.now + terms.pass_ttl}
while room_left > 0 and n_examined < examine_max do
  -- Pops no more places than can be admitted.
  local popped = redis.call('ZPOPMIN', WAITING, math.min(room_left, examine_max - n_examined))
  if #popped == 0 then break end
  n_examined = n_examined + #popped / 2
  line.serving = math.max(line.serving, tonumber(popped[#popped]))
  local is_seen = skips_absent and seen_among(terms.window, popped)
  local present, absent = {}, {}
  for i = 1, #popped, 2 do
    local account, number = popped[i], popped[i + 1]
    if is_seen and not is_seen[i] then
      absent[#absent + 1] = number
      absent[#absent + 1] = account
    else
      present[#present + 1] = number
      present[#present + 1] = account
      answer[#answer + 1] = tonumber(number)
      answer[#answer + 1] = account
    end
  end
  if #absent > 0 then redis.call('ZADD', AWAY, unpack(absent)) end
  if #present > 0 then grant(present, terms) end
  room_left = room_left - #present / 2
end
answer[1] = n_examined
if room_left > 0 and redis.call('EXISTS', WAITING) == 1 then answer[2] = 1 end
save()
return answer
