-- A record is a line of ours, the header, and the node's own JSON, which is never parsed here. The header:
-- `session instance former takeovers takeover_at from to version at reason`, empty or 0 for none; former sessions are joined with commas,
-- and the reason comes last, since it may hold spaces.
local HEADER = '^(%S*) (%S*) (%S*) (%d+) (%d+) (%S*) (%S*) (%d+) (%d+) ([^\n]*)\n'

-- A header as a table, all of it text, or nil for no record or a damaged one.
local function record_header(stored)
  local session, instance, former, takeovers, takeover_at, from, to, version, at, reason = string.match(stored or '', HEADER)
  if not session then
    return nil
  end
  return {
    session = session, instance = instance, former = former, takeovers = takeovers, takeover_at = takeover_at,
    from = from, to = to, version = version, at = at, reason = reason,
  }
end

-- A header that says nothing.
local function empty_header()
  return {
    session = '', instance = '', former = '', takeovers = '0', takeover_at = '0', from = '', to = '', version = '0', at = '0', reason = '',
  }
end

local function join_record(header, record)
  return header.session .. ' ' .. header.instance .. ' ' .. header.former .. ' ' .. header.takeovers .. ' ' .. header.takeover_at .. ' '
    .. header.from .. ' ' .. header.to .. ' ' .. header.version .. ' ' .. header.at .. ' ' .. header.reason .. '\n' .. record
end
