-- end_pass: ends the pass of a number, whether or not the line has a place at it.
--
-- ARGV: now, number.
-- Returns: 1; nil if the line is lost.
-- Complexity: O(log n).
-- Atomic, because a re-entry at the same time must not restore a pass that ended.
if not enter(ARGV[1]) then return false end

local number = tonumber(ARGV[2])
if number <= line.issued then finish(number, holder(number)) end
save()
return 1
