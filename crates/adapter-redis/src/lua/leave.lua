-- leave: takes a place out, wherever it stands.
--
-- ARGV: now, number, account.
-- Returns: what became of it (as in ../store.rs); nil if the line is lost.
-- Complexity: O(log n).
-- Atomic, because the scheduler may be admitting the place: it leaves the line, or its pass ends, and not both.
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
