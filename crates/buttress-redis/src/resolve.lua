-- ARGV: fence. If the operation was completed, also the time to live, and the payload if it can be
-- kept. If the operation never happened, nothing else.
local record, problem = current(KEYS[4])
if problem then
  return problem
end
if not record or digits(record.fence) ~= ARGV[1] or record.state ~= 'unknown' then
  return { 'stale' }
end
if ARGV[2] then
  -- Removes the owner. Otherwise the lost run would be told that its own result was recorded.
  record.owner = string.rep('\0', 16)
  enter(record, 'completed', now, tonumber(ARGV[2]))
  write(record, ARGV[3])
else
  remove(record.key)
end
return { 'applied' }
