-- join: gives each account a place, in order.
--
-- ARGV: now, is shut (1 or 0), capacity, rate per second, tick, pass ttl, presence window, ceiling, accounts.
-- Returns: three of each account: the outcome (as in ../store.rs), number, when the pass expires (or 0); nil if the
--          line is lost.
-- Complexity: O(log n) for each account.
-- Atomic, because an account must not get two places, nor two accounts one number, and an admission takes room.
local CEILING_REACHED, JOINED_WAITING, JOINED_ADMITTED, ALREADY_WAITING, ALREADY_ADMITTED = 0, 1, 2, 3, 4
if not enter(ARGV[1]) then return false end

local terms = read_terms(2)
line.window = terms.window
line.ceiling = math.max(line.ceiling, math.min(tonumber(ARGV[8]), NUMBER_MAX))

local answers = {}
local function answer(kind, number, expires_at)
  answers[#answers + 1] = kind
  answers[#answers + 1] = number
  answers[#answers + 1] = expires_at
end

for i = 9, #ARGV do
  local account = ARGV[i]
  local where, number, expires_at = find(account)
  if where == INSIDE then
    answer(ALREADY_ADMITTED, number, expires_at)
  elseif where then
    wait_at(number, account, where, number)
    answer(ALREADY_WAITING, number, 0)
  elseif line.issued >= line.ceiling then
    answer(CEILING_REACHED, 0, 0)
  else
    line.issued = line.issued + 1
    if redis.call('EXISTS', WAITING) == 0 and room(terms) > 0 then
      answer(JOINED_ADMITTED, line.issued, grant({line.issued, account}, terms))
    else
      wait_at(line.issued, account)
      answer(JOINED_WAITING, line.issued, 0)
    end
  end
end
save()
return answers
