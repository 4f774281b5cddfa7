-- open: opens the line in the epoch, or adds to what is known of it. Does nothing to a line of a newer epoch, nor to one
-- of this epoch that another life of the server left: that is lost, and says so.
--
-- ARGV: as `contribute`.
-- Returns: nothing that is looked at.
-- Complexity: that of `contribute`, and UNLINK of what an older epoch left.
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
add_contribution()
save()
keep()
return 1
