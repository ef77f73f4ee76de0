"""The configuration document that a process applies at its start, if the namespace has none yet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyscheduler.core.limits import MAX_DOCUMENT_BYTES
from pyscheduler.errors import InvalidInput, VersionConflict
from pyscheduler.registry.logs import Log

if TYPE_CHECKING:
    from pyscheduler.allocator import Allocator
    from pyscheduler.core.document import PoolDocument


def read(path: Path) -> PoolDocument:
    """The document in a file.

    Raises:
        InvalidInput: it cannot be read.
        DocumentInvalid: it breaks rules; all of them are listed.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_DOCUMENT_BYTES + 1).decode("utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"cannot read --pools {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"--pools {path} is not UTF-8 text (byte {error.start})") from None
    from pyscheduler.core.reader import load_document

    return load_document(text)


async def apply(allocator: Allocator, document: PoolDocument, *, path: Path, author: str, log: Log) -> None:
    """Make ``document`` the configuration unless there is one. Of several processes that try, one does it.

    Args:
        allocator: the namespace.
        document: the document.
        path: where it came from, for the log.
        author: who, for the history.
        log: where to log.

    Raises:
        PyschedulerError: the store does not take it.
    """
    if (await allocator.document()).version:
        log.info("pools_not_applied", reason="the namespace has a document already", file=path)
        return
    try:
        change = await allocator.sync(
            document, expect_version=0, author=author, reason="first document of the namespace"
        )
    except VersionConflict:
        log.info("pools_not_applied", reason="another process was first", file=path)
        return
    log.info("pools_applied", file=path, pools=len(document.pools), version=change.version_after)
