-- What a job asks for, as the scripts that look for a node get it.

local MAX_NAME = 70 -- bytes of a language or service: a longer one could not be part of the index of capabilities

local function split(text, what)
  local found = {}
  for item in string.gmatch(text, what) do
    found[#found + 1] = item
  end
  return found
end

local function is_name(text)
  return #text <= MAX_NAME and find(text, '^[a-z0-9._-]+$')
end

-- Whether a text that is not empty is a list of names. One that is too short for too many is not taken apart.
local function is_list(text, pattern, what)
  return find(text, pattern) and (#text < MAX_NAMES * 2 or #split(text, what) <= MAX_NAMES)
end

-- What is wrong with a request, or nil.
local function malformed_request(slots, tenant, session, src, tgt, services, labels, scope, exclude, exclude_pools)
  if not integer(slots, 1, MAX_JOB_SLOTS) then
    return 'slots must be 1..' .. MAX_JOB_SLOTS
  end
  if tenant ~= '' and not is_id(tenant, 64) then
    return 'tenant'
  end
  if session ~= '' and not is_id(session, 128) then
    return 'session'
  end
  if not is_name(src) or not is_name(tgt) or #services > 4160 or (services ~= '' and not is_list(services, '^[a-z0-9._,-]*$', '[^,]+'))
    or (#services > MAX_NAME and find(services, string.rep('[^,]', MAX_NAME + 1))) then
    return 'a language or service'
  end
  if labels ~= '' and (#labels > 8192 or not is_string_list(object(labels))) then
    return 'labels must be a JSON object of texts, of up to 8192 bytes'
  end
  if scope ~= '' and scope ~= 'eligible' and scope ~= 'exact' then
    return 'scope must be eligible or exact'
  end
  if exclude ~= '' and (not is_list(exclude, '^[A-Za-z0-9._: -]*$', '%S+') or #exclude > 8320) then
    return 'exclude'
  end
  if exclude_pools ~= '' and (not is_list(exclude_pools, '^[a-z0-9._ -]*$', '%S+') or #exclude_pools > 8320) then
    return 'exclude_pools'
  end
  return nil
end

-- Which requests have the same pools: a text, and the field of `routes` that keeps them.
local function route_name(tenant, _, src, tgt, services, labels, scope)
  return src .. ' ' .. tgt .. ' ' .. services .. ' ' .. scope .. (tenant == '' and ' public ' or '  ') .. labels
end

-- A tenant's rule, or what holds for all others.
local function tenant_rule(stored)
  local slots, strict, pool = string.match(stored or '', '^(%d+) ([01]) (.*)$')
  return { slots = tonumber(slots or 0), strict = strict == '1', pool = pool or '' }
end

local function set_of_names(text)
  local set = {}
  if text ~= '' then
    for item in string.gmatch(text, '%S+') do
      set[item] = true
    end
  end
  return set
end
