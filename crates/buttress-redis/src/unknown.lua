-- ARGV: the prefix of the keys of records, the maximum number of records, the key to start after.
local base, limit, behind = ARGV[1], tonumber(ARGV[2]), ARGV[3]

-- The server compares strings in its locale, which can differ from the order of their bytes.
local function before(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then
      return x < y
    end
  end
  return #a < #b
end

local members = {}
local function collect(found)
  for _, name in ipairs(found) do
    if not behind or before(behind, name) then
      members[#members + 1] = name
    end
  end
end
collect(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', digits(now)))
collect(redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. digits(now), '+inf'))
table.sort(members, before)

local listed = { 'listed' }
for i, name in ipairs(members) do
  if #listed > limit then
    break
  end
  local record = name ~= members[i - 1] and load(base .. name)
  record = record and update(record)
  if record and record.state == 'unknown' and record.since <= now then
    listed[#listed + 1] = { name, digits(record.fence), digits(now - record.since) }
  end
end
return listed
