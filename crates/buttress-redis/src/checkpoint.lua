-- ARGV: owner, fence, checkpoint.
local record, problem = held(KEYS[4], ARGV[1], ARGV[2])
if problem then
  return problem
end
if not record or not IN_FLIGHT[record.state] then
  return { 'stale' }
end
redis.call('HSET', record.key, 'checkpoint', ARGV[3])
return { 'applied' }
