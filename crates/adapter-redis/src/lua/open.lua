-- open: opens the line in the epoch, or contributes to it if it is open. Does nothing to a line of a newer epoch, nor
-- to one of this epoch from another run of the server: that line is lost, and all other scripts answer nil.
--
-- ARGV: as `contribute`.
-- Returns: a value that the caller ignores.
-- Complexity: that of `contribute`, and UNLINK of the keys of an older epoch.
-- Atomic, because a line that is half open would give out numbers or room of the epoch before.
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
