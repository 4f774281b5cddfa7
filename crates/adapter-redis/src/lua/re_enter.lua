-- re_enter: puts places from before a loss back into the line, and marks them present.
--
-- ARGV: now, three of each entry (number, account, when its pass expires or '').
-- Returns: 1; nil if the line is lost.
-- Complexity: O(log n) for each entry.
-- Atomic, because only one of two places of an account stays, even if both are shown at the same time.
if not enter(ARGV[1]) then return false end

local function re_enter(number, account, expires_at)
  local where, current = find(account)
  if not may_return(number, account, where, current) then return end
  if not expires_at then
    current = current or number
    if current ~= number then vacate(math.max(current, number)) end
    wait_at(math.min(current, number), account, where, current)
  elseif line.now < expires_at then
    show_again(number, account, expires_at, where, current)
  else
    redis.call('SETBIT', EXPIRED, number, 1)
    if current == number then lift(account, where) end
  end
end

for i = 2, #ARGV, 3 do re_enter(tonumber(ARGV[i]), ARGV[i + 1], tonumber(ARGV[i + 2])) end
save()
return 1
