-- ARGV: owner, fence, the retention as unknown.
local record, problem = held(KEYS[4], ARGV[1], ARGV[2])
if problem then
  return problem
end
if record and record.state == 'unknown' then
  return { 'applied' }
end
if not record or not IN_FLIGHT[record.state] then
  return { 'stale' }
end
enter(record, 'unknown', now, tonumber(ARGV[3]))
write(record)
return { 'applied' }
