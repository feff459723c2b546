-- The prelude of every script. All times are in microseconds.
-- KEYS: 1 the fence counter, 2 the leases that can lapse, 3 the unknown operations, 4 and later
-- the records.

-- The year 2255. Doubles are exact up to this number, and a little beyond.
local LAST = 9e15

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1e6 + tonumber(clock[2])

local HAS_BEGUN = { ['started'] = true, ['taken over'] = true }
local IN_FLIGHT = { ['reserved'] = true, ['started'] = true, ['taken over'] = true }
local STATES = {
  ['reserved'] = true, ['started'] = true, ['taken over'] = true,
  ['completed'] = true, ['unknown'] = true,
}

-- `tostring` would round to 14 digits.
local function digits(number)
  return string.format('%.0f', number)
end

local function number(text)
  if text and #text <= 16 and string.find(text, '^%d+$') then
    local value = tonumber(text)
    if value <= LAST then
      return value
    end
  end
  return nil
end

local function after(instant, lasting)
  return math.min(instant + lasting, LAST)
end

-- Returns the record under a key, or the reason why it cannot be read.
local function load(key)
  local found = redis.pcall('HMGET', key,
    'v', 'state', 'owner', 'fence', 'fingerprint', 'since', 'until', 'unknown_for', 'from')
  if found.err then
    if string.find(found.err, 'WRONGTYPE', 1, true) then
      return nil, { 'garbled' }
    end
    return nil, found
  end
  if not found[1] then
    -- A hash of another program must not be mixed with a record.
    if redis.call('EXISTS', key) == 1 then
      return nil, { 'garbled' }
    end
    return nil, nil
  end
  local version = number(found[1])
  if version and version > 1 then
    return nil, { 'newer', found[1] }
  end
  local record = {
    key = key, state = found[2], owner = found[3], fence = number(found[4]),
    fingerprint = found[5], since = number(found[6]), ends = number(found[7]),
    unknown_for = number(found[8]), from = number(found[9]),
  }
  if version ~= 1 or not STATES[record.state] or not record.fence
    or not record.owner or #record.owner ~= 16
    or not record.fingerprint or #record.fingerprint ~= 33
    or not record.since or not record.ends
    or (IN_FLIGHT[record.state] and not record.unknown_for)
    or (record.state == 'taken over' and not record.from) then
    return nil, { 'garbled' }
  end
  return record, nil
end

local function enter(record, state, since, lasting)
  record.state, record.since, record.ends = state, since, after(since, lasting)
end

-- Applies the ends of leases and retentions that have passed. Returns the current record, if it
-- still exists, and whether it changed.
local function update(record)
  local changed = false
  while record and record.ends <= now do
    changed = true
    if HAS_BEGUN[record.state] then
      enter(record, 'unknown', record.ends, record.unknown_for)
    else
      record = nil
    end
  end
  return record, changed
end

-- Redis removes the record one second late, because the scripts' time must decide, not the time
-- of its own expiry.
local function expire(record)
  local last = record.ends
  if HAS_BEGUN[record.state] then
    last = after(last, record.unknown_for)
  end
  redis.call('PEXPIREAT', record.key, digits(math.ceil(last / 1000) + 1000))
end

local function member(key)
  return string.sub(key, -64)
end

local function index(record)
  if HAS_BEGUN[record.state] then
    redis.call('ZADD', KEYS[2], digits(record.ends), member(record.key))
  else
    redis.call('ZREM', KEYS[2], member(record.key))
  end
  if record.state == 'unknown' then
    redis.call('ZADD', KEYS[3], digits(record.ends), member(record.key))
  else
    redis.call('ZREM', KEYS[3], member(record.key))
  end
end

-- Begins with a command that needs no memory. Redis then allows the following commands although
-- it is full, so that the result of a granted claim can be recorded.
local function write(record, payload)
  expire(record)
  redis.call('HSET', record.key, 'state', record.state, 'owner', record.owner,
    'since', digits(record.since), 'until', digits(record.ends))
  if not IN_FLIGHT[record.state] then
    redis.call('HDEL', record.key, 'unknown_for', 'from')
  end
  if record.state == 'completed' then
    redis.call('HDEL', record.key, 'checkpoint')
    if payload then
      redis.call('HSET', record.key, 'payload', payload)
    end
  end
  index(record)
end

local function remove(key)
  redis.call('DEL', key)
  redis.call('ZREM', KEYS[2], member(key))
  redis.call('ZREM', KEYS[3], member(key))
end

-- Brings a record up to date, and writes the change to the store.
local function settle(record)
  local kept, changed = update(record)
  if changed and kept then
    write(kept)
  elseif changed then
    remove(record.key)
  end
  return kept, changed
end

local function current(key)
  local record, problem = load(key)
  if problem then
    return nil, problem
  end
  return (settle(record)), nil
end

-- Returns the record of a hold, brought up to date, if the hold still owns it.
local function held(key, owner, fence)
  local record, problem = current(key)
  if record and record.owner == owner and digits(record.fence) == fence then
    return record, nil
  end
  return nil, problem
end
