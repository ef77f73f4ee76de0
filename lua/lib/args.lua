-- Parsing of arguments. A breach of the contract is an error reply, returned before anything is written.
local find = string.find

local function badarg(what)
  return redis.error_reply('PYSCHED_BADARG ' .. what)
end

-- A whole number within bounds, or nil. Digits only: tonumber() would also take '0x10', '1e3' and ' 1'.
local function integer(text, low, high)
  if not text or not find(text, '^%-?%d+$') or #text > 16 then
    return nil
  end
  local value = text + 0
  if value < low or value > high then
    return nil
  end
  return value
end

-- Whether it is a load, 0.0000..1.0000.
local function is_fraction(text)
  return find(text, '^0%.%d%d%d%d$') or text == '1.0000'
end

local function is_id(text, longest)
  return #text <= longest and find(text, '^[A-Za-z0-9._:-]+$')
end

-- A JSON object as a table, or nil. cjson.decode throws, and also takes scalars.
local function object(text)
  local parsed, value = pcall(cjson.decode, text)
  if parsed and type(value) == 'table' then
    return value
  end
  return nil
end

-- A list of strings; cjson reads an empty list as an empty table.
local function is_string_list(value)
  if type(value) ~= 'table' then
    return false
  end
  for _, item in pairs(value) do
    if type(item) ~= 'string' then
      return false
    end
  end
  return true
end

-- A number in a text or a reply: Lua itself writes 14 digits at most. (Arguments of redis.call the engine writes, with all of theirs.)
local function digits(number)
  return string.format('%d', number)
end
