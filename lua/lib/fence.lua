-- The fence: which session a node has, and whether the caller speaks for it. Epochs only grow, and come from the store's clock.

local function is_former(header, session)
  return header and string.find(',' .. header.former .. ',', ',' .. session .. ',', 1, true)
end

-- Returns nothing, and sets the node's epoch and how it begins to be registered, if it does; or the reply that refuses it.
-- Uses: CONFIG.
local function fence(node, config, now)
  local previous, header, mode = node.previous, node.header, node.mode
  if mode == 'update' then
    if not previous or previous.epoch < node.asked_epoch then
      -- An older epoch than the caller's: the store lost the newer session (a failover), so the caller registers again.
      return { 'UNKNOWN' }
    end
    if previous.epoch ~= node.asked_epoch or previous.status == 'o' then
      return { 'STALE' }
    end
    if previous.status == 'l' then
      -- Its instance was taken for dead: the session goes on by registering again, so that the record names who holds it.
      return { 'UNKNOWN' }
    end
    node.epoch = node.asked_epoch
    return nil
  end
  local floor = tonumber(config.epoch_floor)
  if previous and header and header.session == node.session then
    if previous.status == 'o' then
      return { 'STALE' }
    end
    -- The stored epoch is newer if the reply that gave it was lost, older if the store lost it.
    node.epoch = math.max(previous.epoch, node.asked_epoch)
    node.registered = node.epoch > previous.epoch and 'resume' or nil
  elseif is_former(header, node.session) then
    -- A late repetition of a call that succeeded, from before a newer socket took the node over.
    return { 'STALE' }
  elseif mode == 'resume' then
    if previous and previous.epoch >= node.asked_epoch then
      return { 'STALE' }
    end
    -- At or below the floor a later session may have come and gone: the caller lives, but needs a new epoch.
    node.epoch = node.asked_epoch > floor and node.asked_epoch or math.max(now, floor + 1)
    node.registered = 'resume'
  else
    node.epoch = math.max(now, floor + 1, previous and previous.epoch + 1 or 0)
    node.registered = previous and 'reconnect' or 'new'
  end
  if mode == 'resume' or not node.registered then
    return nil -- it was there before: the store may have forgotten it, but nobody has to let it in
  end
  if previous and not is_offline(previous.status) and node.lease_end > now then
    if node.takeover == '0' then
      return { 'CONFLICT', header and header.instance or '' }
    end
    node.registered = 'takeover'
  end
  if node.admission_digest ~= '' and node.admission_digest ~= config.admission_digest then
    return { 'ADMISSION', redis.call('HGET', CONFIG, 'admission') }
  end
  return nil
end
