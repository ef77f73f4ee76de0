-- Facts as the store holds them, each list read when it is first asked for: to place every class under rules that ask for one list, the
-- others need not be read. All of them were checked when they were written.
--@include lib/facts.lua

-- How a list begins in canonical JSON; an item, and what follows it.
local LIST_BEGINS = {
  asr = '"asr":[', semantic = '"semantic":[', tts = '"tts":[', services = '"services":[', gpu_memory_gb = '"gpu_memory_gb":[',
}
local TEXT_ITEM, NUMBER_ITEM = '^"([^"]*)"([,%]])()', '^(%d+)([,%]])()'

-- A list as canonical JSON has it, or nil where the text has another form.
local function read_list(text, name)
  local list, pattern, _, bracket = {}, TEXT_ITEM, string.find(text, LIST_BEGINS[name], 1, true)
  if not bracket then
    return not string.find(text, '"' .. name .. '"', 1, true) and list or nil
  end
  if name == 'gpu_memory_gb' then
    pattern = NUMBER_ITEM
  end
  local item, follows
  local at = bracket + 1
  repeat
    item, follows, at = string.match(text, pattern, at)
    if not item then
      return nil
    end
    list[#list + 1] = pattern == NUMBER_ITEM and tonumber(item) or item
  until follows == ']'
  return list
end

local UNREAD = {
  __index = function(facts, name)
    facts[name] = read_list(facts.text, name) or (stored_facts(facts.text) or stored_facts('{}'))[name]
    return facts[name]
  end,
}

-- What matching may look at; nothing for what is no facts. What is more than lists is read whole.
local function unread_facts(text)
  if string.sub(text, -1) ~= '}' or string.find(text, '{', 2, true) or string.find(text, '\\', 1, true) then
    return stored_facts(text) or stored_facts('{}')
  end
  return setmetatable({ text = text, labels = NO_ITEMS, sets = {} }, UNREAD)
end
