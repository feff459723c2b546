-- ARGV: lease, then owner and fence of each record.
-- If a record cannot be read, only its own lease is lost.
local answers = { 'renewed' }
for i = 4, #KEYS do
  local record = held(KEYS[i], ARGV[2 * i - 6], ARGV[2 * i - 5])
  if record and IN_FLIGHT[record.state] then
    record.ends = after(now, tonumber(ARGV[1]))
    write(record)
    answers[i - 2] = 'applied'
  else
    answers[i - 2] = 'stale'
  end
end
return answers
