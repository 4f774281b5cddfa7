-- leave: removes a place from the line, or ends its pass.
--
-- ARGV: now, number, account.
-- Returns: the outcome (as in ../store.rs); nil if the line is lost.
-- Complexity: O(log n).
-- Atomic, because the scheduler may admit the place at the same time: it leaves the line, or its pass ends, not both.
local NOT_THERE, LEFT_THE_LINE, ENDED_PASS = 0, 1, 2
if not enter(ARGV[1]) then return false end

local account = ARGV[3]
local where, number = find(account)
local outcome = NOT_THERE
if where and number == tonumber(ARGV[2]) then
  finish(number, account, where)
  outcome = where == INSIDE and ENDED_PASS or LEFT_THE_LINE
end
save()
return outcome
