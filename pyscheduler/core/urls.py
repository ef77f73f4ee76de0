"""URLs that may hold a password, and how they are shown."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit

_HIDDEN = "***"


def masked_url(url: str) -> str:
    """``url`` with its password, wherever it stands, replaced by stars: what may be shown and logged."""
    try:
        parts = urlsplit(url)
        query = [(key, _HIDDEN if key == "password" else value) for key, value in parse_qsl(parts.query)]
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
