"""URLs of stores: what their parts mean, and how they are shown without their passwords."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from pyscheduler.core.limits import MAX_STORE_HOSTS

Address = tuple[str, int]
"""Host and port."""

_HIDDEN = "***"
_SENTINEL: Final = "+sentinel"
_DEFAULT_PORT: Final = 6379
_DEFAULT_SENTINEL_PORT: Final = 26379


@dataclass(frozen=True, slots=True, repr=False)
class StoreUrl:
    """A URL of a store, taken apart.

    Attributes:
        scheme: ``redis``, ``rediss`` (TLS) or ``unix``.
        hosts: where to begin: nodes of a Cluster, Sentinels, or the one server; none with ``unix``.
        service: what the Sentinels call the primary; empty without Sentinels.
        server: the URL of one server, with user, password, database and options; of the first host, or of none in
            particular where Sentinels name it.
        sentinel: the same for a Sentinel; empty without Sentinels.
    """

    scheme: str
    hosts: tuple[Address, ...]
    service: str
    server: str
    sentinel: str

    @classmethod
    def parse(cls, url: str) -> StoreUrl:
        """Takes a URL apart.

        Args:
            url: ``redis[s]://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]...][/DB]``,
                ``redis[s]+sentinel://[USER[:PASSWORD]@]HOST[:PORT][,...]/SERVICE[/DB]`` or ``unix:///PATH``.

        Raises:
            ValueError: it is none, with the reason, which repeats nothing of it.
        """
        try:
            parts = urlsplit(url)
        except ValueError:
            raise ValueError("is no URL") from None
        scheme, through_sentinels = parts.scheme.removesuffix(_SENTINEL), parts.scheme.endswith(_SENTINEL)
        if scheme not in {"redis", "rediss", "unix"} or (scheme == "unix" and through_sentinels):
            raise ValueError("must begin with redis://, rediss://, unix://, redis+sentinel:// or rediss+sentinel://")
        if scheme == "unix":
            if not parts.path:
                raise ValueError("names no socket: write unix:///path/to/socket")
            return cls(scheme, (), "", url, "")
        user, at, place = parts.netloc.rpartition("@")
        hosts = _hosts(place, _DEFAULT_SENTINEL_PORT if through_sentinels else _DEFAULT_PORT)
        query = parse_qsl(parts.query, keep_blank_values=True)
        if not through_sentinels:
            one = url if len(hosts) == 1 else _put_together(scheme, user + at, hosts[0], parts.path, query)
            return cls(scheme, hosts, "", one, "")
        service, _, database = parts.path.removeprefix("/").partition("/")
        if not service:
            raise ValueError("names no service: write redis+sentinel://host:26379/SERVICE/0")
        own = {name: value for name, value in query if name in ("sentinel_username", "sentinel_password")}
        rest = [(name, value) for name, value in query if name not in own]
        logins = [(name.removeprefix("sentinel_"), value) for name, value in own.items()]
        return cls(
            scheme,
            hosts,
            unquote(service),
            _put_together(scheme, user + at, hosts[0], f"/{database}", rest),
            _put_together(scheme, "", hosts[0], "", [*rest, *logins]),
        )


def _hosts(place: str, default_port: int) -> tuple[Address, ...]:
    written = place.split(",")
    if len(written) > MAX_STORE_HOSTS:
        raise ValueError(f"names more than {MAX_STORE_HOSTS} hosts")
    hosts = []
    for one in written:
        if not one and len(written) > 1:
            raise ValueError("has a comma too many: write host:port,host:port")
        try:
            parts = urlsplit(f"//{one}")
            hosts.append((parts.hostname or "localhost", parts.port or default_port))
        except ValueError:
            raise ValueError("has a host or port that is none: write redis://host:6379/0") from None
    return tuple(hosts)


def _put_together(scheme: str, login: str, host: Address, path: str, query: list[tuple[str, str]]) -> str:
    name = f"[{host[0]}]" if ":" in host[0] else host[0]
    return f"{scheme}://{login}{name}:{host[1]}{path}" + (f"?{urlencode(query)}" if query else "")


def masked_url(url: str) -> str:
    """``url`` with its password, wherever it stands, replaced by stars: what may be shown and logged."""
    try:
        parts = urlsplit(url)
        query = [(key, _HIDDEN if key.endswith("password") else value) for key, value in parse_qsl(parts.query)]
    except ValueError:
        return _HIDDEN
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        # A password with an unescaped / ? or #: what the parser takes for a path may be the rest of it.
        return f"{parts.scheme}://{_HIDDEN}"
    user, at, place = parts.netloc.rpartition("@")
    if at:
        name, colon, _ = user.partition(":")
        place = f"{name}{colon}{_HIDDEN if colon else ''}@{place}"
    # Put together by hand: urlunsplit drops the two slashes where a scheme it does not know has no host.
    return f"{parts.scheme}://{place}{parts.path}" + (f"?{urlencode(query, safe='*/')}" if query else "")
