"""A script that stops at one of its calls of Redis: it waits there for ever, fails there, or fills the server's memory
there and goes on; or it only counts its calls.

Point ``k`` lies before call ``k``, counted from 0; the last point lies after the last call, before the reply.
"""

from __future__ import annotations

from enum import StrEnum

from pyscheduler.scripts import Script


class Stop(StrEnum):
    """What becomes of the script at its point."""

    WAIT = "wait"
    FAIL = "fail"
    FILL = "fill"
    NEVER = "never"


# Around the whole script, which becomes a function: so the point before the reply is one place, however many returns.
_BEFORE = """
local stop_at, how, calls, trace = {at}, '{how}', 0, {{}}
local function stop()
  if how == 'fail' then
    error('stopped at its point')
  end
  if how == 'fill' then
    redis.call('SETRANGE', 'ballast', {ballast}, 'x')
    return
  end
  while true do
  end
end
local actual = redis
local redis = setmetatable({{
  call = function(command, ...)
    if how ~= 'never' and calls == stop_at then
      stop()
    end
    calls = calls + 1
    trace[calls] = command .. ' ' .. tostring((select(command == 'XINFO' and 2 or 1, ...)))
    return actual.call(command, ...)
  end
}}, {{ __index = actual }})
local function body()
"""
BALLAST_BYTES = 4_000_000
"""How much ``Stop.FILL`` writes, into a key of its own called ``ballast``."""

_AFTER = """
end
local reply = body()
if how ~= 'never' and calls == stop_at then
  stop()
end
if how == 'never' then
  return {{ reply, trace }}
end
return reply
"""


def stopping(script: Script, how: Stop, at: int = 0, *, shebang: bool) -> str:
    """The text of the script that stops at a point. With ``Stop.NEVER`` it replies ``{its reply, its calls}``.

    Args:
        script: the script.
        how: what happens at the point.
        at: the point.
        shebang: whether the engine reads the first line.
    """
    first, rest = (script.source if shebang else script.plain_source).split("\n", 1)
    return first + _BEFORE.format(at=at, how=how, ballast=BALLAST_BYTES) + rest + _AFTER.format()
