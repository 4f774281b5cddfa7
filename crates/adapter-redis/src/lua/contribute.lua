-- contribute: adds a server's knowledge from before the epoch to an open line.
--
-- ARGV: now, shortest window, start, serving, reserved, reserved_until or '', holds_until or '', how many grants,
--       three of each grant (number, account, expires_at), two of each segment of G (offset in bytes, bytes).
-- Returns: 1; nil if the line is lost.
-- Complexity: O(grants x log n + size of G).
-- Atomic, because a grant that is only half restored would be inside twice.
if not enter(ARGV[1]) then return false end
add_contribution()
save()
keep()
return 1
