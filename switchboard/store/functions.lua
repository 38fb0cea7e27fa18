#!lua name=switchboard_v1

-- Every atomic step of the store. No function touches the keys of two runs. Numbers are printed with %.0f, because
-- Lua writes large ones as 1e+15.

-- A record is "version token json". Save it when it still has the expected version (0: there is none).
local function record_save(keys, args)
  local expected, version, token, json, expires = tonumber(args[1]), args[2], args[3], args[4], tonumber(args[5])
  local present = redis.call('GET', keys[1])
  local found = 0
  if present then found = tonumber(string.match(present, '^(%d+) ')) or -1 end
  if found ~= expected then return {0, present} end
  local text = version .. ' ' .. token .. ' ' .. json
  if expires > 0 then
    redis.call('SET', keys[1], text, 'PXAT', string.format('%.0f', expires))
  else
    redis.call('SET', keys[1], text)
  end
  return {1, version}
end

-- Remove a record; returns the version that it had, 0 when there was none.
local function record_delete(keys, args)
  local present = redis.call('GET', keys[1])
  if not present then return '0' end
  redis.call('DEL', keys[1])
  return string.match(present, '^(%d+) ') or '0'
end

-- Where a run's output stands. The stream outvotes a lost counter.
local function standing(stream, counter)
  local held = redis.call('GET', counter)
  if held then return tonumber(held) end
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)
  if last[1] then return tonumber(string.match(last[1][1], '^(%d+)')) + 1 end
  return 1
end

-- One batch. Later than next is a gap, wholly earlier a repeat, overlapping is sent again from next; only an equal one
-- is taken, and next moves with it. The entry's id is <seq of its last event>-<count>.
local function output_append(keys, args)
  local first, count, blob, most = tonumber(args[1]), tonumber(args[2]), args[3], args[4]
  local next = standing(keys[1], keys[2])
  if first ~= next then return {string.format('%.0f', next), 0} end
  local id = string.format('%.0f-%.0f', first + count - 1, count)
  redis.call('XADD', keys[1], 'MAXLEN', '~', most, id, 'b', blob)
  next = first + count
  redis.call('SET', keys[2], string.format('%.0f', next), 'KEEPTTL')
  return {string.format('%.0f', next), 1}
end

-- Let a run's output go on at a later seq: what lies between is held nowhere any more.
local function output_skip(keys, args)
  local next = standing(keys[1], keys[2])
  local first = tonumber(args[1])
  if first > next then
    next = first
    redis.call('SET', keys[2], string.format('%.0f', next), 'KEEPTTL')
  end
  return string.format('%.0f', next)
end

-- Entries of the audit chain, when nobody else has lengthened it meanwhile and none of them is there already, as the
-- marks among the keys tell: those that are come back, and nothing is written. A head is "seq hash".
local function audit_append(keys, args)
  local expected, head = args[1], args[2]
  local present = redis.call('GET', keys[2]) or ''
  if present == head then return {1, head} end -- the same call once more, its first answer was lost
  local answer = {0, present}
  for i = 3, #keys do
    if redis.call('EXISTS', keys[i]) == 1 then table.insert(answer, keys[i]) end
  end
  if present ~= expected or #answer > 2 then return answer end
  for i = 3, #keys do redis.call('SET', keys[i], head) end
  for i = 3, #args, 2 do
    redis.call('XADD', keys[1], args[i] .. '-0', 'j', args[i + 1])
  end
  redis.call('SET', keys[2], head)
  return {1, head}
end

-- Count up, to the floor at least.
local function counter_next(keys, args)
  local value = (tonumber(redis.call('GET', keys[1]) or '0')) + 1
  local floor = tonumber(args[1])
  if value < floor then value = floor end
  redis.call('SET', keys[1], string.format('%.0f', value))
  return string.format('%.0f', value)
end

redis.register_function('switchboard_v1_record_save', record_save)
redis.register_function('switchboard_v1_record_delete', record_delete)
redis.register_function('switchboard_v1_output_append', output_append)
redis.register_function('switchboard_v1_output_skip', output_skip)
redis.register_function('switchboard_v1_audit_append', audit_append)
redis.register_function('switchboard_v1_counter_next', counter_next)
