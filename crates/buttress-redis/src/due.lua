-- Counts the records that a sweep would find.
local count = redis.call('ZCOUNT', KEYS[2], '-inf', digits(now))
  + redis.call('ZCOUNT', KEYS[3], '-inf', digits(now))
return { 'counted', digits(count) }
