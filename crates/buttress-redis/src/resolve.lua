-- ARGV: fence, then nothing if the operation never happened, or its time to live, and the payload
-- if it can be kept.
local record, problem = current(KEYS[4])
if problem then
  return problem
end
if not record or digits(record.fence) ~= ARGV[1] or record.state ~= 'unknown' then
  return { 'stale' }
end
if ARGV[2] then
  -- No owner: otherwise the lost run would be told that its own result was recorded.
  record.owner = string.rep('\0', 16)
  enter(record, 'completed', now, tonumber(ARGV[2]))
  write(record, ARGV[3])
else
  remove(record.key)
end
return { 'applied' }
