-- mark_present: marks the places present that a server saw since its last merge.
--
-- ARGV: now, presence window, two of each segment of the numbers that were seen (offset in bytes, bytes).
-- Returns: 1; nil if the line is lost.
-- Complexity: O(size of the bitmap), at the speed of BITOP.
-- Atomic, because the time of the last merge decides whether presence can be trusted.
if not enter(ARGV[1]) then return false end

line.window = tonumber(ARGV[2])
if line.now - line.merged_at > line.window / BUCKETS_PER_WINDOW then
  -- People who polled meanwhile are missing, so presence is complete only from now on.
  line.complete_since = line.now
end
line.merged_at = line.now
merge_bits(seen_now(), 3)
save()
keep()
return 1
