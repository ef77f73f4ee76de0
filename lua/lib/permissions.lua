-- Redis asks a user's permission command by command, and undoes nothing: who lacks one is refused before the first write.
-- Uses: CONFIG. Returns nil, or the reply with which the script must end. Redis 6.2 cannot be asked.
local function denied(...)
  for _, command in ipairs({ ... }) do
    if redis.acl_check_cmd and not redis.acl_check_cmd(command, CONFIG, '', '', '') then
      return redis.error_reply('NOPERM this user may not run ' .. command .. '; nothing was changed')
    end
  end
  return nil
end
