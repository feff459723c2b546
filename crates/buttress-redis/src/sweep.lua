-- ARGV: the prefix of the keys of records, the maximum number of records.
local base, limit = ARGV[1], tonumber(ARGV[2])
-- Up to this number of unreadable records do not prevent the others from being swept.
local UNREADABLE = 100

local swept = 0
for _, due in ipairs({ KEYS[2], KEYS[3] }) do
  local names = redis.call('ZRANGEBYSCORE', due, '-inf', digits(now),
    'LIMIT', 0, limit - swept + UNREADABLE)
  for _, name in ipairs(names) do
    if swept == limit then
      break
    end
    local record, problem = load(base .. name)
    if record then
      local _, changed = settle(record)
      if changed then
        swept = swept + 1
      else
        index(record)
      end
    elseif not problem then
      -- Redis has removed the record by itself.
      redis.call('ZREM', due, name)
      swept = swept + 1
    end
  end
end
return { 'counted', digits(swept) }
