-- mark_present: notes whom a server saw since its last merge.
--
-- ARGV: now, presence window, two of each segment of who was seen (offset in bytes, bytes).
-- Returns: 1; nil if the line is lost.
-- Complexity: O(size of the bitmap), at the speed of BITOP.
-- Atomic, because whether presence is to be trusted depends on the time of the last merge.
if not enter(ARGV[1]) then return false end

line.window = tonumber(ARGV[2])
if line.now - line.merged_at > line.window / BUCKETS_PER_WINDOW then
  -- Who polled meanwhile was not noted: what is known begins anew.
  line.complete_since = line.now
end
line.merged_at = line.now
merge_bits(seen_now(), 3)
save()
keep()
return 1
