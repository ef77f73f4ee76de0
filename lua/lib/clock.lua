-- Server time in whole milliseconds. A caller's clock is never used. Tests replace this file to let time pass.
local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end
