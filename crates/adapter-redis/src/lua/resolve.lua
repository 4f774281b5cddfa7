-- resolve: looks places up, marks them present, and takes places that were away back into the line.
--
-- ARGV: now, two of each place (number, account).
-- Returns: three of each place: its state (as in ../store.rs), number, how many are ahead or when the pass expires; nil
--          if the line is lost.
-- Complexity: O(log n) for each place.
-- Atomic, because a place that comes back must be in the line before the next admission.
local UNKNOWN, WAITS, ADMITTED, IS_DONE, IS_EXPIRED = 0, 1, 2, 3, 4
if not enter(ARGV[1]) then return false end

local function resolve(number, account)
  local where, current, expires_at = find(account)
  if has(DONE, number) then return IS_DONE, 0, 0 end
  if has(EXPIRED, number) then return IS_EXPIRED, 0, 0 end
  local is_inherited = number <= line.inherited
  if where == INSIDE then return ADMITTED, current, expires_at end
  if where and (current <= number or not is_inherited) then
    wait_at(current, account, where, current)
    return WAITS, current, redis.call('ZRANK', WAITING, account)
  end
  -- A lower number from before a loss may replace the account's current one, but only the ledger knows whether its pass
  -- was used up.
  if is_inherited or number > line.issued then return UNKNOWN, 0, 0 end
  -- The place gave way to another place of the account, which has ended, too.
  return IS_DONE, 0, 0
end

local answers = {}
for i = 2, #ARGV, 2 do
  local kind, number, extra = resolve(tonumber(ARGV[i]), ARGV[i + 1])
  answers[#answers + 1] = kind
  answers[#answers + 1] = number
  answers[#answers + 1] = extra
end
save()
return answers
