-- A session's token, `epoch:class:status:digest`: what the hot path compares as a whole, and the fence of every writer.
-- The status letter: g registering, r ready, d degraded; and in its reconnect grace o offline (its socket closed) or l lost (its
-- scheduler instance has gone; if that comes back after all, the session goes on).
local STATUS_NAMES = { g = 'registering', r = 'ready', d = 'degraded', o = 'offline', l = 'offline' }

local function make_token(epoch, class, status, digest)
  return digits(epoch) .. ':' .. digits(class) .. ':' .. status .. ':' .. digest
end

-- {epoch, class, status, digest}, or nil for no token.
local function parse_token(token)
  if not token then
    return nil
  end
  local epoch, class, status, digest = string.match(token, '^(%d+):(%d+):([grdol]):(%x*)$')
  if not epoch then
    return nil
  end
  return { epoch = tonumber(epoch), class = tonumber(class), status = status, digest = digest }
end

-- Whether a node is in its reconnect grace.
local function is_offline(status)
  return status == 'o' or status == 'l'
end

-- What people see: offline before draining before what the node reports.
local function effective_status(status, held)
  if held and not is_offline(status) then
    return 'draining'
  end
  return STATUS_NAMES[status]
end
