-- refresh: reads the numbers and counts of the line, and the changes of G.
--
-- ARGV: now, how many changes of G the reader has read, or -1.
-- Returns: serving, issued, inherited, waiting, returned, away, active, admitted_total, holds_until, how many changes
--          G has had, is all of G (1 or 0), and then all of G as one bitmap or the new numbers one by one; nil if the
--          line is lost.
-- Complexity: O(log n + changes), or O(size of G) for a reader that is too far behind.
-- Atomic, because counts of different instants would not add up, and a number added between two reads would be missed.
if not enter(ARGV[1]) then return false end

local answer = {
  line.serving, line.issued, line.inherited,
  redis.call('ZCARD', WAITING), redis.call('ZCOUNT', WAITING, '-inf', line.serving),
  redis.call('ZCARD', AWAY), active(), line.admitted_total,
  line.now < line.holds_until and line.holds_until or 0,
  line.gone_count, 0,
}
local known = tonumber(ARGV[2])
local oldest = line.gone_count - redis.call('LLEN', RECENT)
if known < oldest or known > line.gone_count then
  answer[11] = 1
  answer[12] = redis.call('GET', GONE) or ''
else
  for _, number in ipairs(redis.call('LRANGE', RECENT, known - oldest, -1)) do
    answer[#answer + 1] = tonumber(number)
  end
end
save()
return answer
