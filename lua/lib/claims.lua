-- Who speaks for which attempt of which job, as the scripts that change reservations get it.

-- What is wrong with it, or nil.
local function malformed_claim(job_id, attempt, owner, lease_ms)
  if not is_id(job_id, 128) then
    return 'job_id'
  end
  if not integer(attempt, 1, 1000000) then
    return 'attempt must be 1..1000000'
  end
  if not is_id(owner, 64) then
    return 'owner'
  end
  if not integer(lease_ms, 1, 86400000) then
    return 'lease_ms must be 1..86400000'
  end
  return nil
end
