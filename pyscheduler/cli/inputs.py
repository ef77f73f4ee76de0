"""Files that an operator hands in, read with a bound."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from pyscheduler.errors import InvalidInput

if TYPE_CHECKING:
    from pyscheduler.core.document import PoolDocument

# Read no more than a document may have, plus one byte to tell that there is more: the reader then refuses it by its
# own rule, and an endless pipe does not fill the memory.
_READ_BYTES = (1 << 20) + 1


def read_text(path: str) -> str:
    """The text of a file, or of the standard input for ``-``; at most 1 MiB and a byte of it.

    Raises:
        InvalidInput: it cannot be read or is not UTF-8.
    """
    try:
        if path == "-":
            data = sys.stdin.buffer.read(_READ_BYTES)
        else:
            with open(path, "rb") as file:
                data = file.read(_READ_BYTES)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror or error}") from None
    if len(data) == _READ_BYTES:
        raise InvalidInput(f"{_shown(path)} is longer than 1 MiB, the most that a pool configuration may have")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{_shown(path)} is not UTF-8 text (byte {error.start})") from None


def _shown(path: str) -> str:
    return "standard input" if path == "-" else path


def read_document(path: str) -> PoolDocument:
    """The pool configuration in a file, or on the standard input for ``-``.

    Raises:
        InvalidInput: it cannot be read.
        DocumentInvalid: it breaks rules; all of them are listed.
    """
    from pyscheduler.core.reader import load_document

    return load_document(read_text(path))
