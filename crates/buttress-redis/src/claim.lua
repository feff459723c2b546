-- ARGV: owner, fingerprint, the initial state, whether to take over, lease, the retention as
-- unknown.
local owner, fingerprint, state, on_unknown = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local lease, unknown_for = tonumber(ARGV[5]), tonumber(ARGV[6])

local function claimed(record)
  if record.state ~= 'taken over' then
    return { 'claimed', digits(record.fence) }
  end
  local checkpoint = redis.call('HGET', record.key, 'checkpoint')
  return { 'claimed', digits(record.fence), digits(record.from), checkpoint }
end

local found, problem = load(KEYS[4])
if problem then
  return problem
end

-- Checked before the record is brought up to date. An owner that claims again has lost the reply
-- to its first claim and has not begun, so nothing is unknown even if the lease has ended.
if found and IN_FLIGHT[found.state] and found.owner == owner then
  found.ends = after(now, lease)
  write(found)
  return claimed(found)
end

local record, changed = update(found)
if record and changed then
  write(record)
end
if record then
  if record.fingerprint ~= fingerprint then
    return { 'mismatch', record.fingerprint }
  elseif IN_FLIGHT[record.state] then
    return { 'in flight', digits(math.max(now - record.since, 0)), digits(record.ends - now) }
  elseif record.state == 'completed' then
    local payload = redis.call('HGET', record.key, 'payload')
    if payload then
      return { 'replay', payload }
    end
    return { 'not replayable' }
  elseif on_unknown ~= 'take over' then
    return { 'unknown', digits(record.fence), digits(math.max(now - record.since, 0)) }
  end
end

local counter = redis.call('GET', KEYS[1])
if counter and not number(counter) then
  return { 'garbled' }
end
-- At least the time, so that a lost counter does not start again from zero.
local fence = math.max((number(counter) or 0) + 1, now)
if found then
  fence = math.max(fence, found.fence + 1)
end

local granted = {
  key = KEYS[4], state = state, owner = owner, fence = fence, since = now,
  ends = after(now, lease), unknown_for = unknown_for,
}
if record then
  granted.state, granted.from = 'taken over', record.fence
end
-- This is the first command that writes, unless a record exists already. A full Redis rejects it,
-- and the claim with it.
redis.call('HSET', granted.key, 'v', '1', 'state', granted.state, 'owner', owner,
  'fence', digits(fence), 'fingerprint', fingerprint, 'since', digits(granted.since),
  'until', digits(granted.ends), 'unknown_for', digits(unknown_for))
redis.call('SET', KEYS[1], digits(fence))
if granted.from then
  redis.call('HSET', granted.key, 'from', digits(granted.from))
elseif found then
  redis.call('HDEL', granted.key, 'payload', 'checkpoint', 'from')
end
expire(granted)
index(granted)
return claimed(granted)
