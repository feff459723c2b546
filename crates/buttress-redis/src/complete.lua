-- ARGV: owner, fence, time to live, the payload if it can be kept.
local record, problem = held(KEYS[4], ARGV[1], ARGV[2])
if problem then
  return problem
end
if record and record.state == 'completed' then
  return { 'applied' }
end
if not record or not IN_FLIGHT[record.state] then
  return { 'stale' }
end
enter(record, 'completed', now, tonumber(ARGV[3]))
write(record, ARGV[4])
return { 'applied' }
