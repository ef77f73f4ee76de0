"""YAML or JSON text -> configuration document, or everything that is wrong with it at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, TypeVar, get_args, get_origin

from msgspec import Struct
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pyscheduler.core.document import DeclaredPool, PoolDocument
from pyscheduler.core.ids import shown
from pyscheduler.core.limits import MAX_COUNTED_PROBLEMS, MAX_DOCUMENT_BYTES, MAX_PROBLEMS
from pyscheduler.core.reachability import shadowed
from pyscheduler.core.rules import repeated
from pyscheduler.core.schema import document_schema
from pyscheduler.core.source import Mapping, Node, Path, Scalar, Sequence, path_text, read_source
from pyscheduler.errors import DocumentInvalid, Problem

__all__ = ["document_schema", "load_document"]

Model = TypeVar("Model", bound=BaseModel)


def load_document(text: str | bytes, *, source: str = "") -> PoolDocument:
    """The document that a YAML or JSON text says. Time and memory stay bounded whatever the text is.

    Args:
        text: at most 1 MiB; bytes must be UTF-8.
        source: what to call the text, such as a file name, where a problem concerns the whole of it.

    Raises:
        DocumentInvalid: with all problems in the order of the text, each with its path and line. Beyond 200 the rest is
            counted, not listed.
    """
    try:
        tree = read_source(text)
    except DocumentInvalid as error:
        raise DocumentInvalid(_listed(error.problems, source)) from None
    findings = _Findings(tree.root)
    document = _checked(tree.root, findings)
    if document is None or findings.found or tree.problems:
        raise DocumentInvalid(_listed([*tree.problems, *findings.found], source))
    return document


# --- what is looked for ----------------------------------------------------------------------------------------------


def _checked(root: Node, findings: _Findings) -> PoolDocument | None:
    """The document, or None where findings say why there is none."""
    if not isinstance(root, Mapping):
        findings.add((), f"the document must be a mapping (key: value), not {_kind(_data(root))}")
        return None
    members = {key: _data(value) for key, (_, value) in root.members.items()}
    pools: list[DeclaredPool] = []
    if isinstance(entries := members.get("pools"), list):
        members["pools"] = []
        pools = _checked_pools(entries, findings)
    sections = _validated(PoolDocument, members, (), findings)
    if sections is None or findings.found:
        return None
    document = PoolDocument(
        admission=sections.admission,
        auto=sections.auto,
        guard=sections.guard,
        selection=sections.selection,
        tenants=sections.tenants,
        pools=tuple(pools),
    )
    if (size := len(document.canonical())) > MAX_DOCUMENT_BYTES:
        findings.add((), f"the document takes {size} bytes as stored, at most {MAX_DOCUMENT_BYTES} are allowed")
    return document


def _checked_pools(entries: list[Any], findings: _Findings) -> list[DeclaredPool]:
    # One by one: what is wrong with one pool must not hide what is wrong between the others.
    pools, again = [], set()
    names = [entry["name"] if isinstance(entry, dict) and "name" in entry else None for entry in entries]
    for index, first in repeated(name if isinstance(name, str) else index for index, name in enumerate(names)):
        again.add(index)
        place = findings.place(("pools", first, "name"))
        findings.add(("pools", index, "name"), f"pool name {shown(names[index])} is taken by {place}")
    for index, entry in enumerate(entries):
        pool = _validated(DeclaredPool, entry, ("pools", index), findings)
        if pool is not None and index not in again:
            pools.append((index, pool))
        if findings.enough:
            return []
    for hidden, hiding in shadowed(pool for _, pool in pools):
        (index, pool), (other_index, other) = pools[hidden], pools[hiding]
        place = findings.place(("pools", other_index))
        findings.add(
            ("pools", index),
            f"no node can reach pool {shown(pool.name)}: {shown(other.name)} ({place}) is tried earlier "
            "and takes every node that matches; give this pool a higher priority or remove it",
        )
    return [pool for _, pool in pools]


def _validated(model: type[Model], data: object, path: Path, findings: _Findings) -> Model | None:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            findings.add_error(path, details)
        return None


def _data(node: Node) -> Any:
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [_data(item) for item in node.items]
    return {key: _data(value) for key, (_, value) in node.members.items()}


class _Finding(Struct, frozen=True):
    """A problem not yet put into words: a hostile text can be wrong in 200,000 ways, of which few are listed."""

    line: int
    path: Path
    what: str | ErrorDetails

    def problem(self) -> Problem:
        words = self.what if isinstance(self.what, str) else _words(self.what, self.path)
        return Problem(path_text(self.path), words, self.line)


class _Findings:
    """Collects what is wrong, each with its line."""

    def __init__(self, root: Node) -> None:
        self._root = root
        self.found: list[_Finding] = []

    @property
    def enough(self) -> bool:
        """Whether there is no point in looking for more."""
        return len(self.found) >= MAX_COUNTED_PROBLEMS

    def add(self, path: Path, message: str) -> None:
        """Something wrong with the value at ``path``."""
        self.found.append(_Finding(self._locate(path)[0], path, message))

    def add_error(self, path: Path, error: ErrorDetails) -> None:
        """What pydantic found below ``path``."""
        path = (*path, *(step for step in error["loc"] if step != "[key]"))
        line, node = self._locate(path)
        already_refused = isinstance(node, Scalar) and node.refused
        # Entries that were refused are missing from the list whose length pydantic checks.
        emptied_by_refusals = error["type"] == "too_short" and error["input"]
        if not already_refused and not emptied_by_refusals:
            self.found.append(_Finding(line, path, error))

    def place(self, path: Path) -> str:
        """``pools[3] on line 12``, for a message that points there."""
        return f"{path_text(path)} on line {self._locate(path)[0]}"

    def _locate(self, path: Path) -> tuple[int, Node | None]:
        """Line of the value at ``path``, or of the innermost one around it that is there; and the value if it is."""
        line, node = self._root.line, self._root
        for step in path:
            if isinstance(node, Mapping) and step in node.members:
                line, node = node.members[str(step)]
            elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
                node = node.items[step]
                line = node.line
            else:
                return line, None
        return line, node


def _listed(found: Iterable[Problem | _Finding], source: str) -> list[Problem]:
    """The problems by line, the first 200; the last one then says how many more there are."""
    ordered = sorted(found, key=lambda item: item.line or 0)
    problems = [item if isinstance(item, Problem) else item.problem() for item in ordered[:MAX_PROBLEMS]]
    if more := len(ordered[MAX_PROBLEMS:]):
        at_least = "at least " if more + MAX_PROBLEMS >= MAX_COUNTED_PROBLEMS else ""
        are = "problem is" if more == 1 and not at_least else "problems are"
        problems.append(Problem("", f"{at_least}{more} more {are} not listed"))
    return [_named(problem, source) for problem in problems]


def _named(problem: Problem, source: str) -> Problem:
    if source and not problem.where:
        return Problem("", f"{source}: {problem.message}", problem.line)
    return problem


# --- what is said about it -------------------------------------------------------------------------------------------


def _words(error: ErrorDetails, path: Path) -> str:
    given, context = error["input"], error.get("ctx", {})
    match error["type"]:
        case "missing":
            return "is missing"
        case "extra_forbidden":
            return _unknown_key(path)
        case "model_type" | "dict_type":
            return f"must be a mapping (key: value), not {_kind(given)}"
        case "tuple_type":
            return f"must be a list such as [a, b], not {_kind(given)}"
        case "string_type":
            hint = ": put it in quotes" if isinstance(given, bool | int | float) else ""
            return f"must be text, not {_kind(given)}{hint}"
        case "int_type":
            return f"must be a whole number, not {_kind(given)}"
        case "bool_type":
            return f"must be true or false, not {_kind(given)}"
        case "greater_than_equal":
            return f"must be at least {context['ge']}, not {shown(given)}"
        case "less_than_equal":
            return f"must be at most {context['le']}, not {shown(given)}"
        case "too_long":
            return f"has {len(given)} entries, at most {context['max_length']} are allowed"
        case "string_too_long":
            return f"has {len(given)} characters, at most {context['max_length']} are allowed"
        case "too_short" | "string_too_short":
            return "is empty: fill it in, or leave the key out"
        case "literal_error":
            return f"must be one of {context['expected']}, not {shown(given)}"
        case _:
            return str(context.get("error", error["msg"]))  # nearly always a rule of ours, in its own words


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {shown(value)}"
    if isinstance(value, str):
        return f"the text {shown(value)}"
    return "a list" if isinstance(value, list) else "a mapping"


def _unknown_key(path: Path) -> str:
    key = str(path[-1])
    fields = _fields(_model_at(path[:-1]))
    deeper = [f"{name}.{key}" for name, model in fields.items() if model is not None and key in _fields(model)]
    near = deeper or difflib.get_close_matches(_folded(key), fields, n=1)
    if near:
        return f"unknown key {shown(key)}: did you mean {' or '.join(near)}?"
    return f"unknown key {shown(key)}: the keys here are {', '.join(fields)}"


def _folded(key: str) -> str:
    """``minCount`` and ``Min-Count`` as the ``min_count`` they are meant to be."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|-", "_", key[:64]).lower()


def _fields(model: type[BaseModel]) -> dict[str, type[BaseModel] | None]:
    """Keys of a section, and the model of each that is a section itself."""
    return {
        field.alias or name: None if get_origin(field.annotation) is tuple else _section(field.annotation)
        for name, field in model.model_fields.items()
    }


def _model_at(path: Path) -> type[BaseModel]:
    model: type[BaseModel] = PoolDocument
    for step in path:
        if isinstance(step, str):
            field = next(field for name, field in model.model_fields.items() if (field.alias or name) == step)
            model = _section(field.annotation) or model
    return model


def _section(annotation: object) -> type[BaseModel] | None:
    """The model in an annotation such as ``Annotated[LanguageRule | None, ...]`` or ``tuple[DeclaredPool, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section, get_args(annotation))), None)
