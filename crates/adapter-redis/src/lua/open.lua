-- open: opens the line in the epoch, or adds to what is known of it. Does nothing to a line of a newer epoch, nor to one
-- of this epoch that another life of the server left: that is lost, and says so.
--
-- ARGV: now, shortest window, start, serving, reserved, reserved_until or '', holds_until or '', how many grants,
--       three of each grant (number, account, expires_at), two of each segment of G (offset in bytes, bytes).
-- Returns: nothing that is looked at.
-- Complexity: O(grants x log n + size of G), and UNLINK of what an older epoch left.
-- Atomic, because a line that is half open would give out numbers or room that are not its own.
local known = redis.call('HMGET', LINE, 'epoch', 'life')
local epoch = tonumber(known[1])
if epoch and epoch > EPOCH then return false end
if epoch ~= EPOCH then
  redis.call('UNLINK', unpack(KEYS))
  local now = ARGV[1]
  local fresh = {window = ARGV[2], rate_level = -1, now = now, rate_filled_at = now, complete_since = now, merged_at = now}
  local fields = {'epoch', EPOCH, 'life', life(), 'buckets', '0 ' .. now .. ' ' .. now}
  for _, field in ipairs(FIELDS) do
    fields[#fields + 1] = field
    fields[#fields + 1] = fresh[field] or 0
  end
  redis.call('HSET', LINE, unpack(fields))
end
if not enter(ARGV[1]) then return false end

line.inherited = math.max(line.inherited, tonumber(ARGV[3]))
line.issued = math.max(line.issued, tonumber(ARGV[3]))
line.serving = math.max(line.serving, tonumber(ARGV[4]))
line.reserved = math.max(line.reserved, tonumber(ARGV[5]))
line.reserved_until = math.max(line.reserved_until, tonumber(ARGV[6]) or 0)
line.holds_until = math.max(line.holds_until, tonumber(ARGV[7]) or 0)

local after_grants = 9 + 3 * tonumber(ARGV[8])
if merge_bits(GONE, after_grants) then
  -- Every reader is sent all of G next time.
  line.gone_count = line.gone_count + 1
  redis.call('DEL', RECENT)
end
for i = 9, after_grants - 1, 3 do
  local number, account, expires_at = tonumber(ARGV[i]), ARGV[i + 1], tonumber(ARGV[i + 2])
  local where, current = find(account)
  if line.now < expires_at and may_return(number, account, where, current) then
    show_again(number, account, expires_at, where, current)
  end
end
save()
keep()
return 1
