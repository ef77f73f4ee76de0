-- What a job needs of a class, and the classes that have it, whatever their pools are called: the source language in ASR, the target in
-- semantic, and in TTS too if the service tts is wanted; and every wanted service ready.
-- Uses: CAPABILITIES.

-- Names of capabilities, or nil if one could not be part of the index.
local function wanted_capabilities(src, tgt, services)
  local wanted = { 'asr:' .. src, 'semantic:' .. tgt }
  for _, service in ipairs(services) do
    wanted[#wanted + 1] = 'service:' .. service
    if service == 'tts' then
      wanted[#wanted + 1] = 'tts:' .. tgt
    end
  end
  for _, capability in ipairs(wanted) do
    if not string.match(capability, '^%l+:[a-z0-9._-]+$') or #capability > 80 then
      return nil
    end
  end
  return wanted
end

-- Class numbers in order, and those of the capabilities that no class has.
local function classes_with_all(wanted)
  local met, found, missing = {}, {}, {}
  for _, capability in ipairs(wanted) do
    local classes = classes_with(capability)
    if #classes == 0 then
      missing[#missing + 1] = capability
    end
    for _, class in ipairs(classes) do
      met[class] = (met[class] or 0) + 1
    end
  end
  for class, count in pairs(met) do
    if count == #wanted then
      found[#found + 1] = class
    end
  end
  table.sort(found)
  return found, missing
end
