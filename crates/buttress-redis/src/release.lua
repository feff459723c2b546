-- ARGV: owner, the retention as unknown.
local record, problem = current(KEYS[4])
if problem then
  return problem
end
if not record or record.owner ~= ARGV[1] or not IN_FLIGHT[record.state] then
  return { 'stale' }
end
if record.state == 'taken over' then
  enter(record, 'unknown', now, tonumber(ARGV[2]))
  write(record)
else
  remove(record.key)
end
return { 'applied' }
