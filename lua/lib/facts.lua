-- Facts: what matching may look at. Canonical JSON on the wire; lists inside, and sets where something asks for them.

local FACT_LISTS = { 'asr', 'semantic', 'tts', 'services' }
local NO_ITEMS = {}

-- The items of one of the lists as a set. Made when it is first asked for: most classes are never held against most of their lists.
local function set_of(facts, name)
  local set = facts.sets[name]
  if not set then
    set = {}
    for _, item in ipairs(facts[name]) do
      set[item] = true
    end
    facts.sets[name] = set
  end
  return set
end

-- Facts as they are stored, or nil if the JSON is not facts.
local function stored_facts(text)
  local facts = object(text)
  if not facts then
    return nil
  end
  for kind = 1, #FACT_LISTS do
    local name = FACT_LISTS[kind]
    local list = facts[name] or NO_ITEMS
    if type(list) ~= 'table' then
      return nil
    end
    for index = 1, #list do
      if type(list[index]) ~= 'string' then
        return nil
      end
    end
    facts[name] = list
  end
  facts.gpu_memory_gb = facts.gpu_memory_gb or NO_ITEMS
  facts.labels = facts.labels or NO_ITEMS
  facts.sets = {}
  if type(facts.gpu_memory_gb) ~= 'table' or type(facts.labels) ~= 'table' or (facts.private or true) ~= true then
    return nil
  end
  for _, memory in ipairs(facts.gpu_memory_gb) do
    if type(memory) ~= 'number' then
      return nil
    end
  end
  return facts
end

-- Facts as a node sends them: no list may name anything twice.
local function parse_facts(text)
  local facts = stored_facts(text)
  for _, name in ipairs(facts and FACT_LISTS or NO_ITEMS) do
    local seen = {}
    for _, item in ipairs(facts[name]) do
      if seen[item] then
        return nil
      end
      seen[item] = true
    end
    facts.sets[name] = seen
  end
  return facts
end

-- Whether every language and service can be part of an entry of the capability index.
local function are_indexable(facts)
  for _, name in ipairs(FACT_LISTS) do
    for _, item in ipairs(facts[name]) do
      if not string.match(item, '^[a-z0-9._-]+$') then
        return false
      end
    end
  end
  return true
end

-- The languages that name a node's auto pool: those it translates; without any, those it speaks; then those it hears.
local function languages_of(facts)
  for _, name in ipairs({ 'semantic', 'tts', 'asr' }) do
    if #facts[name] > 0 then
      return facts[name]
    end
  end
  return {}
end

-- The name of a language set; '' for none. A code's own '-' becomes '_', so two sets never share a name.
local function language_set_name(facts)
  local parts = {}
  for index, code in ipairs(languages_of(facts)) do
    parts[index] = string.gsub(code, '%-', '_')
  end
  local name = table.concat(parts, '-')
  if #name > 128 then
    return 'langs-' .. #parts .. '-' .. string.sub(redis.sha1hex(name), 1, 12)
  end
  return name
end

-- The class's entries of the capability index.
local function capability_entries(facts, class)
  local suffix = ':' .. digits(class)
  local entries = {}
  for _, name in ipairs(FACT_LISTS) do
    local prefix = name == 'services' and 'service' or name
    for _, item in ipairs(facts[name]) do
      entries[#entries + 1] = prefix .. ':' .. item .. suffix
    end
  end
  local set_name = language_set_name(facts)
  if set_name ~= '' then
    entries[#entries + 1] = 'set:' .. set_name .. suffix
  end
  return entries
end

-- Every class that has languages, as a list of {class, name of its language set}. Uses: CAPABILITIES. Bounded by MAX_CLASSES.
local function language_sets()
  local sets = {}
  for index, entry in ipairs(redis.call('ZRANGEBYLEX', CAPABILITIES, '[set:', '(set;', 'LIMIT', 0, MAX_CLASSES)) do
    local name, class = string.match(entry, '^set:(.*):(%d+)$')
    sets[index] = { class = tonumber(class), name = name }
  end
  return sets
end

-- Class numbers that have a capability such as 'asr:zh'. Uses: CAPABILITIES. Bounded by MAX_CLASSES.
local function classes_with(capability)
  local numbers = {}
  local entries = redis.call('ZRANGEBYLEX', CAPABILITIES, '[' .. capability .. ':', '(' .. capability .. ';', 'LIMIT', 0, MAX_CLASSES)
  for index, entry in ipairs(entries) do
    numbers[index] = tonumber(string.sub(entry, #capability + 2))
  end
  return numbers
end
