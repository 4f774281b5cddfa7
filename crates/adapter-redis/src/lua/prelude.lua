-- The code that all scripts of a line share. Rust puts `local EPOCH = <n>` before it and the file of one verb after it,
-- so that each epoch has scripts of its own (see ../scripts.rs).
--
-- KEYS: as in ../keys.rs, the same for every verb, so that each is declared and all are in one slot of a cluster.
-- Complexity: that of the verb, and O(log n) for each expired pass, at most PURGE_MAX of them a call.
-- Atomicity: Redis runs nothing else while a script runs, and does not refuse a script for lack of memory after its
-- first write: a script does all or nothing.
--
-- Numbers and times are whole and below 2^53, so that Lua's doubles hold them exactly. They go to Redis as numbers,
-- which it writes with 17 digits, and never through `..`, which keeps 14. Redis answers a string, or false for a
-- missing value. The code below distinguishes false, 0 and '', because 0 and '' are true in Lua.

local LINE, WAITING, AWAY, INSIDE, EXPIRIES = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local DONE, EXPIRED, GONE, RECENT, MERGING = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
-- The keys of the presence buckets: KEYS[SEEN_FIRST] and those after it.
local SEEN_FIRST = 11
local SEEN_COUNT = #KEYS - SEEN_FIRST + 1

local PURGE_MAX = 1000
-- How many additions to G are kept one by one. A server reads every quarter second. If it is further behind than this,
-- it was away for long, or a crowd left at once: then the whole set is the shorter answer.
local RECENT_MAX = 4096
-- The last bit of the longest string in Redis.
local NUMBER_MAX = 4294967295
-- A place counts as present for a quarter window too long at most, and never too short.
local BUCKETS_PER_WINDOW = 4
-- The cost of one admission. A rate per second times milliseconds gives thousandths, without rounding.
local TOKEN_MILLI = 1000
-- Keys expire after this time without a merge, when the sale is long over. Servers merge into every live line each
-- second.
local KEPT_FOR_S = 30 * 24 * 3600

-- The fields of the line; see ../keys.rs.
local FIELDS = {
  'now', 'issued', 'inherited', 'ceiling', 'serving', 'admitted_total', 'reserved', 'reserved_until', 'shown_again',
  'holds_until', 'rate_level', 'rate_filled_at', 'gone_count', 'window', 'complete_since', 'merged_at',
}
local line, stored = {}, {}
-- The presence buckets, oldest first: {slot, began_at, last_at}. Scripts write to the last one.
local buckets = {}

-- The id of this run of this server. Each restart and each replica has another one, even if it kept the data
-- (docs/adr/0009).
local function life()
  return string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
end

-- Removes an account from the inside, because its pass expired.
local function expire(account)
  redis.call('SETBIT', EXPIRED, redis.call('ZSCORE', INSIDE, account), 1)
  redis.call('ZREM', INSIDE, account)
  redis.call('ZREM', EXPIRIES, account)
end

-- Reads the line, advances its time, and removes accounts whose passes expired. Returns false if the server does not
-- hold the line in this epoch: it is lost. If more than PURGE_MAX passes expired, later calls remove the rest; until
-- then `find` and `active` do not count them as inside.
local function enter(now)
  local values = redis.call('HMGET', LINE, 'epoch', 'life', 'buckets', unpack(FIELDS))
  if tonumber(values[1]) ~= EPOCH or values[2] ~= life() then return false end
  for slot, began_at, last_at in string.gmatch(values[3], '(%d+) (%-?%d+) (%-?%d+)') do
    buckets[#buckets + 1] = {slot = tonumber(slot), began_at = tonumber(began_at), last_at = tonumber(last_at)}
  end
  for i, field in ipairs(FIELDS) do
    stored[field] = tonumber(values[i + 3])
    line[field] = stored[field]
  end
  stored.buckets = values[3]
  line.now = math.max(line.now, tonumber(now))
  for _, account in ipairs(redis.call('ZRANGEBYSCORE', EXPIRIES, '-inf', line.now, 'LIMIT', 0, PURGE_MAX)) do
    expire(account)
  end
  return true
end

-- Writes the changed fields of the line.
local function save()
  local changed = {}
  for _, field in ipairs(FIELDS) do
    if line[field] ~= stored[field] then
      changed[#changed + 1] = field
      changed[#changed + 1] = line[field]
    end
  end
  local texts = {}
  for i, bucket in ipairs(buckets) do
    texts[i] = string.format('%d %.0f %.0f', bucket.slot, bucket.began_at, bucket.last_at)
  end
  local text = table.concat(texts, ' ')
  if text ~= stored.buckets then
    changed[#changed + 1] = 'buckets'
    changed[#changed + 1] = text
  end
  if #changed > 0 then redis.call('HSET', LINE, unpack(changed)) end
end

-- Renews the expiry of the line's keys.
local function keep()
  for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, KEPT_FOR_S) end
end

-- Whether a bitmap contains a number.
local function has(bitmap, number)
  return number <= NUMBER_MAX and redis.call('GETBIT', bitmap, number) == 1
end

-- Adds the segments from ARGV[from] on to a bitmap: pairs of an offset in bytes, and bytes.
local function merge_bits(bitmap, from)
  if from > #ARGV then return end
  for i = from, #ARGV, 2 do redis.call('SETRANGE', MERGING, ARGV[i], ARGV[i + 1]) end
  redis.call('BITOP', 'OR', bitmap, bitmap, MERGING)
  redis.call('DEL', MERGING)
end

-- The standing of an account: the key of its set, its number, and when its pass expires. Nil if it has no place.
local function find(account)
  for _, set in ipairs({WAITING, AWAY}) do
    local number = redis.call('ZSCORE', set, account)
    if number then return set, tonumber(number) end
  end
  local expires_at = redis.call('ZSCORE', EXPIRIES, account)
  if not expires_at then return nil end
  if tonumber(expires_at) <= line.now then
    expire(account)
    return nil
  end
  return INSIDE, tonumber(redis.call('ZSCORE', INSIDE, account)), tonumber(expires_at)
end

-- The account that has a number, and its set. Nil if no account has it.
local function holder(number)
  for _, set in ipairs({WAITING, AWAY, INSIDE}) do
    local account = redis.call('ZRANGEBYSCORE', set, number, number)[1]
    if account then return account, set end
  end
  return nil
end

-- Removes an account from the set in which `find` or `holder` found it.
local function lift(account, where)
  if where then redis.call('ZREM', where, account) end
  if where == INSIDE then redis.call('ZREM', EXPIRIES, account) end
end

-- Adds a number to G: no place waits at it any more.
local function vacate(number)
  if number > line.serving and redis.call('SETBIT', GONE, number, 1) == 0 then
    line.gone_count = line.gone_count + 1
    if redis.call('RPUSH', RECENT, number) > RECENT_MAX then redis.call('LPOP', RECENT) end
  end
end

-- Ends a place for good.
local function finish(number, account, where)
  redis.call('SETBIT', DONE, number, 1)
  vacate(number)
  lift(account, where)
end

-- The bitmap that marks places present now. Begins a bucket if the last one is full, and drops buckets out of the
-- window.
local function seen_now()
  local current = buckets[#buckets]
  if line.now - current.began_at >= line.window / BUCKETS_PER_WINDOW then
    current = {slot = (current.slot + 1) % SEEN_COUNT, began_at = line.now}
    while #buckets == SEEN_COUNT or (#buckets > 0 and buckets[1].last_at < line.now - line.window) do
      local dropped = table.remove(buckets, 1)
      redis.call('UNLINK', KEYS[SEEN_FIRST + dropped.slot])
      line.complete_since = math.max(line.complete_since, dropped.last_at + 1)
    end
    buckets[#buckets + 1] = current
  end
  current.last_at = line.now
  return KEYS[SEEN_FIRST + current.slot]
end

-- Whether a place that is in no bucket of the window was certainly not seen in it.
local function is_presence_trusted(window)
  return line.now - line.merged_at <= window / BUCKETS_PER_WINDOW and line.complete_since <= line.now - window
end

-- Which of the popped accounts were seen within the window, by their indices. `popped`: as ZPOPMIN answers, accounts
-- and numbers in turn. O(accounts x buckets), in one call for each bucket.
local function seen_among(window, popped)
  local is_seen, asked = {}, {}
  for i = 1, #popped, 2 do asked[#asked + 1] = i end
  for b = #buckets, 1, -1 do
    if #asked == 0 or buckets[b].last_at < line.now - window then break end
    local gets = {}
    for _, i in ipairs(asked) do
      gets[#gets + 1] = 'GET'
      gets[#gets + 1] = 'u1'
      gets[#gets + 1] = popped[i + 1]
    end
    local bits = redis.call('BITFIELD_RO', KEYS[SEEN_FIRST + buckets[b].slot], unpack(gets))
    local rest = {}
    for j, i in ipairs(asked) do
      if bits[j] == 1 then is_seen[i] = true else rest[#rest + 1] = i end
    end
    asked = rest
  end
  return is_seen
end

-- Puts an account into the line, or back into it, and marks it present.
local function wait_at(number, account, where, current)
  redis.call('SETBIT', seen_now(), number, 1)
  if where == WAITING and number == current then return end
  lift(account, where)
  redis.call('ZADD', WAITING, number, account)
end

-- How many accounts are inside.
local function active()
  return redis.call('ZCOUNT', EXPIRIES, string.format('(%.0f', line.now), '+inf')
end

-- The terms of admission, from ARGV[from] on.
local function read_terms(from)
  return {
    is_shut = ARGV[from] == '1', capacity = tonumber(ARGV[from + 1]), rate_per_s = tonumber(ARGV[from + 2]),
    tick = tonumber(ARGV[from + 3]), pass_ttl = tonumber(ARGV[from + 4]), window = tonumber(ARGV[from + 5]),
  }
end

-- Fills the token bucket of the rate, and returns how many places it allows. A level below 0 is a bucket that was never
-- used: it is full, whatever its size. The one token beyond a tick's worth keeps fractions (docs/adr/0008).
local function fill(terms)
  local elapsed = line.now - line.rate_filled_at
  line.rate_filled_at = line.now
  if terms.rate_per_s == 0 then return math.huge end
  local size = terms.rate_per_s * terms.tick + TOKEN_MILLI
  if line.rate_level < 0 then
    line.rate_level = size
  else
    line.rate_level = math.min(line.rate_level + terms.rate_per_s * elapsed, size)
  end
  return math.floor(line.rate_level / TOKEN_MILLI)
end

-- How many places may be admitted now.
local function room(terms)
  if terms.is_shut then
    line.rate_filled_at = line.now
    return 0
  end
  local by_rate = fill(terms)
  if line.now < line.holds_until then return 0 end
  -- Passes from before a loss may still be shown again, so their room stays taken.
  local n_unseen = 0
  if line.now < line.reserved_until then n_unseen = math.max(line.reserved - line.shown_again, 0) end
  return math.min(math.max(terms.capacity - active() - n_unseen, 0), by_rate)
end

-- Admits places (number, account, number, ...), whose accounts are in no set any more, and takes the tokens. Returns
-- when the passes expire.
local function grant(places, terms)
  local n_granted = #places / 2
  local expires_at = line.now + terms.pass_ttl
  local expiries = {}
  for i = 1, #places, 2 do
    expiries[i] = expires_at
    expiries[i + 1] = places[i + 1]
  end
  redis.call('ZADD', INSIDE, unpack(places))
  redis.call('ZADD', EXPIRIES, unpack(expiries))
  line.serving = math.max(line.serving, tonumber(places[#places - 1]))
  if line.rate_level >= 0 then line.rate_level = math.max(line.rate_level - n_granted * TOKEN_MILLI, 0) end
  line.admitted_total = line.admitted_total + n_granted
  return expires_at
end

-- Whether a place from before a loss may come back: it has not ended since, and its account is not inside. `where` and
-- `current`: the set and the number that the account has now.
local function may_return(number, account, where, current)
  if number > line.inherited or where == INSIDE or has(DONE, number) or has(EXPIRED, number) then return false end
  return current == number or not holder(number)
end

-- Restores a valid pass from before a loss.
local function show_again(number, account, expires_at, where, current)
  line.shown_again = line.shown_again + 1
  -- The number was called before the loss, so all lower numbers were, too.
  line.serving = math.max(line.serving, number)
  lift(account, where)
  redis.call('ZADD', INSIDE, number, account)
  redis.call('ZADD', EXPIRIES, expires_at, account)
  if current and current ~= number then vacate(current) end
end

-- Adds a server's knowledge from before the epoch, from the arguments of `contribute`.
local function add_contribution()
  line.inherited = math.max(line.inherited, tonumber(ARGV[3]))
  line.issued = math.max(line.issued, tonumber(ARGV[3]))
  line.serving = math.max(line.serving, tonumber(ARGV[4]))
  line.reserved = math.max(line.reserved, tonumber(ARGV[5]))
  line.reserved_until = math.max(line.reserved_until, tonumber(ARGV[6]) or 0)
  line.holds_until = math.max(line.holds_until, tonumber(ARGV[7]) or 0)

  local after_grants = 9 + 3 * tonumber(ARGV[8])
  local n_gone = redis.call('BITCOUNT', GONE)
  merge_bits(GONE, after_grants)
  if redis.call('BITCOUNT', GONE) > n_gone then
    -- Every reader gets all of G on its next read.
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
end
