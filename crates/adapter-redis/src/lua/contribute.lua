-- contribute: adds to what is known of an open line from before the epoch.
--
-- ARGV: now, shortest window, start, serving, reserved, reserved_until or '', holds_until or '', how many grants,
--       three of each grant (number, account, expires_at), two of each segment of G (offset in bytes, bytes).
-- Returns: 1; nil if the line is lost.
-- Complexity: O(grants x log n + size of G).
-- Atomic, because a grant that is half taken in would be inside twice.
if not enter(ARGV[1]) then return false end
add_contribution()
save()
keep()
return 1
