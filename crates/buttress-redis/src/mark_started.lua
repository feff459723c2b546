-- ARGV: owner, fence.
local record, problem = held(KEYS[4], ARGV[1], ARGV[2])
if problem then
  return problem
end
if not record or not IN_FLIGHT[record.state] then
  return { 'stale' }
end
if record.state == 'reserved' then
  record.state = 'started'
  write(record)
end
return { 'applied' }
