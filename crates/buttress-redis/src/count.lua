-- ARGV: the prefix of the keys of records.
-- Few leases have lapsed at any time, because a sweep turns their records into unknown ones.
local count = redis.call('ZCOUNT', KEYS[3], '(' .. digits(now), '+inf')
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', digits(now))) do
  local record = load(ARGV[1] .. name)
  if record and HAS_BEGUN[record.state] and update(record) then
    count = count + 1
  end
end
return { 'counted', digits(count) }
