"""Lua for Redis: each script is one atomic step of `Store`; keys of one room share a hash tag (one Cluster slot)."""

CREATE_ROOM = """
local present = redis.call('HGET', KEYS[1], 'record')
if present then return {present, 0} end
redis.call('HSET', KEYS[1], 'record', ARGV[1], 'sid', ARGV[2], 'version', ARGV[3])
return {ARGV[1], 1}
"""

CHANGE_ROOM = """
local held = redis.call('HMGET', KEYS[1], 'sid', 'version')
if held[1] ~= ARGV[2] or held[2] ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[1], 'record', ARGV[1], 'version', ARGV[4])
return 1
"""

REMOVE_ROOM = """
local held = redis.call('HMGET', KEYS[1], 'sid', 'version')
if held[1] ~= ARGV[1] then return 0 end
if ARGV[2] ~= '0' and held[2] ~= ARGV[2] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
return 1
"""

# A member is stored as `sid node counted ticket`, all without spaces.
CLAIM = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
local limit = tonumber(ARGV[5])
if limit > 0 and ARGV[4] == '1' then
  local counted = 0
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    if all[i] ~= ARGV[1] and string.match(all[i + 1], '^%S+ %S+ 1 ') then counted = counted + 1 end
  end
  if counted >= limit then return {'full'} end
end
local ticket = redis.call('INCR', KEYS[2])
if ticket <= tonumber(ARGV[6]) then
  ticket = tonumber(ARGV[6]) + 1
  redis.call('SET', KEYS[2], ticket)
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. ticket)
return {'ok', tostring(ticket), held or ''}
"""

RESTORE_CLAIM = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
local ticket = tonumber(ARGV[5])
if held and tonumber(string.match(held, '(%d+)$')) >= ticket then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. ARGV[5])
if tonumber(redis.call('GET', KEYS[2]) or '0') < ticket then redis.call('SET', KEYS[2], ticket) end
return 1
"""

RELEASE = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held and string.match(held, '^(%S+) ') == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
  return 1
end
return 0
"""
