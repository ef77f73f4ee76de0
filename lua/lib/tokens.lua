-- A session's token, `epoch:class:status:digest`: what the hot path compares as a whole, and the fence of every writer.
-- The status letter: g registering, r ready, d degraded, o offline (released, in its reconnect grace).
local STATUS_NAMES = { g = 'registering', r = 'ready', d = 'degraded', o = 'offline' }

local function make_token(epoch, class, status, digest)
  return digits(epoch) .. ':' .. digits(class) .. ':' .. status .. ':' .. digest
end

-- {epoch, class, status, digest}, or nil for no token.
local function parse_token(token)
  if not token then
    return nil
  end
  local epoch, class, status, digest = string.match(token, '^(%d+):(%d+):([grdo]):(%x*)$')
  if not epoch then
    return nil
  end
  return { epoch = tonumber(epoch), class = tonumber(class), status = status, digest = digest }
end

-- What people see: offline before draining before what the node reports.
local function effective_status(status, held)
  if held and status ~= 'o' then
    return 'draining'
  end
  return STATUS_NAMES[status]
end
