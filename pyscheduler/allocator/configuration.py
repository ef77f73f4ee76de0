"""Configuration: documents, versions, history."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping

from pyscheduler.allocator.namespace import Namespace, unexpected
from pyscheduler.allocator.replies import Reply, changes_of, fields_of
from pyscheduler.core.admission import AdmissionPolicy
from pyscheduler.core.document import PoolDocument
from pyscheduler.core.results import ClassMove, ConfigChange, HistoryEntry, PoolChange, StoredDocument
from pyscheduler.errors import GuardRefused, InvalidInput, NotFound, VersionConflict
from pyscheduler.scripts import calls

_PAGE = 16


class Configuration(Namespace):
    """The calls that read and write the configuration."""

    async def admission(self) -> AdmissionPolicy:
        """The admission policy in force."""
        text = await self._store.command("HGET", self._store.key("config"), "admission")
        return AdmissionPolicy.from_json(text) if text else PoolDocument().admission

    async def version(self) -> int:
        """The config version; 0 if the namespace is gone."""
        return int(await self._store.command("HGET", self._store.key("config"), "version") or 0)

    async def document(self, version: int | None = None) -> StoredDocument:
        """The document in force now, or at an earlier config version.

        Raises:
            NotFound: no document was in force at that version, or the history no longer reaches back to it.
        """
        if version is None:
            current, number = await self._store.command(
                "HMGET", self._store.key("config"), "document", "document_version"
            )
            return StoredDocument(int(number or 0), current or "")
        if version < 1:
            raise InvalidInput(f"version {version}: config versions begin with 1")
        is_held = False
        async for number, fields in self._newest_first(f"{version}-0"):
            is_held = is_held or number == version
            if not is_held:
                break
            if fields["document"]:
                return StoredDocument(number, fields["document"])
        if not is_held:
            raise NotFound(f"the history holds no version {version}: see 'pyscheduler pool history'")
        raise NotFound(f"no document was in force at version {version}, or the history no longer holds it")

    async def history(self, *, limit: int = 50) -> list[HistoryEntry]:
        """The newest config versions, newest first; at most ``limit``, 1..1000."""
        if not 1 <= limit <= 1000:
            raise InvalidInput("limit must be 1 to 1000")
        found: list[HistoryEntry] = []
        async for number, fields in self._newest_first("+"):
            found.append(_history_entry(number, fields))
            if len(found) == limit:
                break
        return found

    async def _newest_first(self, start: str) -> AsyncIterator[tuple[int, dict[str, str]]]:
        """Versions and their fields, from ``start`` back. In pages: an entry may hold a document of a MiB."""
        while True:
            page = await self._store.command("XREVRANGE", self._store.key("history"), start, "-", "COUNT", _PAGE)
            for entry_id, flat in page:
                yield int(entry_id.split("-")[0]), fields_of(flat)
            if len(page) < _PAGE:
                return
            start = f"({page[-1][0]}"

    async def sync(
        self,
        document: PoolDocument,
        *,
        expect_version: int | None = None,
        allow_empty: bool = False,
        force: bool = False,
        author: str = "",
        reason: str = "",
        dry_run: bool = False,
    ) -> ConfigChange:
        """Makes a document the configuration, and with it every assignment, in one step.

        Args:
            document: the configuration.
            expect_version: document version that must be in force.
            allow_empty: a document without pools may replace one with pools.
            force: without the guard against leaving nodes without a pool.
            author: who, up to 128 bytes.
            reason: why, up to 256 bytes.
            dry_run: say what would change, and change nothing.

        Raises:
            VersionConflict: another document version is in force.
            GuardRefused: the document is empty, or would leave too many ready nodes without a pool.
        """
        call = _bump(document, expect_version, allow_empty, force, author, reason, "document", dry_run=dry_run)
        return _change_of(await self._reply(call), expect_version, dry_run)

    async def rollback(
        self,
        version: int,
        *,
        expect_version: int | None = None,
        force: bool = False,
        author: str = "",
        reason: str = "",
        dry_run: bool = False,
    ) -> ConfigChange:
        """Applies the document that was in force at an earlier config version, as a new version.

        Arguments as in :meth:`sync`.

        Raises:
            NotFound: no document was in force at that version, or the history no longer reaches back to it.
        """
        stored = await self.document(version)
        call = _bump(
            PoolDocument.from_canonical(stored.json),
            expect_version,
            True,
            force,
            author,
            reason or f"rollback to version {version}",
            "rollback",
            dry_run=dry_run,
        )
        return _change_of(await self._reply(call), expect_version, dry_run)


def _bump(
    document: PoolDocument,
    expect_version: int | None,
    allow_empty: bool,
    force: bool,
    author: str,
    reason: str,
    kind: str,
    *,
    dry_run: bool,
) -> calls.Call:
    """The call that makes ``document`` the configuration, or with ``dry_run`` says what that would change."""
    if expect_version is not None and expect_version < 0:
        raise InvalidInput(f"expected document version {expect_version}: a version is 0 or more")
    return calls.bump_config_version(
        mode="plan" if dry_run else "apply",
        document=document.canonical(),
        digest=document.digest,
        admission=document.admission.to_json(),
        expect_version=-1 if expect_version is None else expect_version,
        allow_empty=allow_empty,
        force=force,
        author=author,
        reason=reason,
        kind=kind,
    )


def _change_of(reply: Reply, expect_version: int | None, dry_run: bool) -> ConfigChange:
    """The result of a bump.

    Raises:
        VersionConflict, GuardRefused: see :meth:`pyscheduler.Allocator.sync`.
    """
    match reply.status:
        case "OK" | "UNCHANGED":
            before, after, version, unassigned = reply.integer(), reply.integer(), reply.integer(), reply.integer()
            changes = changes_of(reply)
            moves = reply.many(lambda: ClassMove(reply.integer(), reply.optional(), reply.optional(), reply.integer()))
            return ConfigChange(before, after, version, dry_run, changes, moves, unassigned)
        case "CONFLICT":
            raise VersionConflict(expect_version or 0, reply.integer())
        case "EMPTY":
            raise GuardRefused(
                f"the document has no pools, and would remove all {reply.text()} declared ones: "
                "if that is meant, repeat with --allow-empty"
            )
        case "GUARD":
            lost, ready, permille = reply.integer(), reply.integer(), reply.integer()
            raise GuardRefused(
                f"{lost} of {ready} ready nodes would be left without a pool, more than the {permille / 10:g} % that "
                "the document's guard.max_unassigned_share allows: look at it with --dry-run --force, and if it is "
                "meant, repeat with --force"
            )
    raise unexpected(reply)


def _history_entry(version: int, fields: Mapping[str, str]) -> HistoryEntry:
    return HistoryEntry(
        version=version,
        at_ms=int(fields["at"]),
        kind=fields["kind"],
        author=fields["author"],
        reason=fields["reason"],
        changes=tuple(PoolChange(change["pool"], change["change"]) for change in json.loads(fields["changes"])),
        has_document=bool(fields["document"]),
    )
