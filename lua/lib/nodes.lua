-- Packing of a node's record and usage.

-- A record is a header (JSON, ours), a newline, and the node's own JSON, which is never parsed here.
-- Both as text, or nil for no record or a damaged one.
local function split_record(stored)
  return string.match(stored or '', '^({[^\n]*})\n(.*)$')
end

local function record_header(stored)
  return object(split_record(stored))
end

local function join_record(header, record)
  return cjson.encode(header) .. '\n' .. record
end

-- Usage is the load as it was given, a space, and the node's own JSON.
local function join_usage(load, usage)
  return load .. ' ' .. usage
end

local function usage_load(stored)
  return tonumber(string.match(stored or '', '^(%S+) ')) or 0
end

local function usage_json(stored)
  return string.match(stored or '', '^%S+ (.*)$') or '{}'
end
