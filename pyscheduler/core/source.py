"""YAML or JSON text -> a tree of values that know their lines. Nothing here knows what a document means.

What a scalar is follows the core schema of YAML 1.2, so that ``no`` is the language Norwegian and not a boolean, and a
number with a leading zero is not octal. Anchors, aliases, tags, directives and several documents in one text are
refused: they let a small text stand for a huge one, or one text mean two things.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable
from typing import NoReturn, TypeAlias

import yaml
from msgspec import Struct, field

from pyscheduler.core.ids import shown
from pyscheduler.core.limits import MAX_DOCUMENT_BYTES, MAX_DOCUMENT_DEPTH, MAX_DOCUMENT_ENTRIES, MAX_DOCUMENT_VALUES
from pyscheduler.errors import DocumentInvalid, Problem

Path: TypeAlias = "tuple[str | int, ...]"
Value: TypeAlias = "str | int | float | bool | None"


class Scalar(Struct):
    """``refused`` marks a value that has its problem already: nothing more is to be said about it."""

    line: int
    value: Value
    refused: bool


class Sequence(Struct):
    line: int
    items: list[Node] = field(default_factory=list)


class Mapping(Struct):
    """``members``: key -> line of the key, and the value."""

    line: int
    members: dict[str, tuple[int, Node]] = field(default_factory=dict)


Node: TypeAlias = "Scalar | Sequence | Mapping"


class Source(Struct, frozen=True):
    """``problems`` did not keep the text from being read, but must be mended too."""

    root: Node
    problems: tuple[Problem, ...]


def read_source(text: str | bytes) -> Source:
    """The values of a YAML or JSON text. Time and memory are bounded by the bounds on bytes, depth and values.

    Raises:
        DocumentInvalid: longer than 1 MiB, not UTF-8, empty, neither YAML nor JSON, nested deeper than 16, more than
            200,000 values or 2,000 in one list, or more than one document. Anchors, aliases, tags and repeated keys are
            ``problems`` of the result.
    """
    decoded = _decode(text)
    start = _FIRST.search(decoded)
    if start is not None and start[0] in "{[":
        try:
            return _read_json(decoded)
        except _NotJson as error:
            # A mapping in braces is YAML too; only a text that also quotes its keys is meant as JSON.
            meant = Problem("", f"not valid JSON: {error.message}", error.line) if _JSON_LIKE.match(decoded) else None
            return _read_yaml(decoded, meant)
    return _read_yaml(decoded, None)


def yaml_text(data: object) -> str:
    """JSON data as YAML that :func:`read_source` reads back: ASCII only, keys in the order given."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=False, width=120)


def path_text(path: Path) -> str:
    """``pools[3].match.gpu``; keys that are no plain words are quoted in brackets."""
    text = ""
    for step in path:
        if isinstance(step, str) and _PLAIN_KEY.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{shown(step)}]"
    return text


_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_FIRST = re.compile(r"[^ \t\r\n]")
_JSON_LIKE = re.compile(r'[ \t\r\n]*[\[{][ \t\r\n]*["\[{}\]]')
_NOT_PRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_LINE_END = re.compile("\r\n|\n|\r")


def _decode(text: str | bytes) -> str:
    # A text never has fewer bytes than characters: the cheap look spares encoding one that is far too long.
    if len(text) > MAX_DOCUMENT_BYTES or len(raw := _encoded(text)) > MAX_DOCUMENT_BYTES:
        raise _refusal(f"the document is longer than {MAX_DOCUMENT_BYTES} bytes: declare fewer pools")
    if isinstance(text, bytes):
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise _refusal("the document is not UTF-8 text: save it as UTF-8", line) from None
    text = text.removeprefix("\ufeff")
    if bad := _NOT_PRINTABLE.search(text):
        line = len(_LINE_END.findall(text, 0, bad.start())) + 1
        raise _refusal(f"the document has the character {shown(bad[0])}, which no text has: is it a text file?", line)
    return text


def _encoded(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def _refusal(message: str, line: int | None = None, where: str = "") -> DocumentInvalid:
    return DocumentInvalid([Problem(where, message, line)])


# --- the tree --------------------------------------------------------------------------------------------------------


class _Frame(Struct):
    node: Sequence | Mapping
    awaits_key: bool
    is_key: bool
    entries: int = 0
    key: str | None = None
    key_line: int = 0


class _Tree:
    """Builds the tree from what a scanner finds, and keeps the bounds."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.problems: list[Problem] = []
        self._frames: list[_Frame] = []
        self._values = 0

    def scalar(self, line: int, text: str, value: Value, *, refused: bool = False) -> None:
        """A scalar: ``text`` counts if it is a key, ``value`` otherwise."""
        self._count(line)
        if self._awaits_key:
            self._take_key(self._frames[-1], line, text)
        else:
            self._attach(Scalar(line, value, refused))

    def open(self, node: Sequence | Mapping) -> None:
        """The start of a list or mapping."""
        self._count(node.line)
        if len(self._frames) == MAX_DOCUMENT_DEPTH:
            self.stop(node.line, f"nested deeper than {MAX_DOCUMENT_DEPTH}, which no configuration needs")
        is_key = self._awaits_key
        if is_key:
            self.problem(node.line, "a key must be plain text, not a list or mapping")
        else:
            self._attach(node, done=False)
        self._frames.append(_Frame(node, awaits_key=isinstance(node, Mapping), is_key=is_key))

    def close(self) -> None:
        """The end of the innermost list or mapping."""
        if self._frames.pop().is_key:
            self._frames[-1].awaits_key = False  # its value follows, and is dropped since there is no key
        else:
            self._value_done()

    def finish(self) -> Source:
        """The whole tree."""
        if self.root is None or (isinstance(self.root, Scalar) and self.root.value is None and not self.root.refused):
            raise _refusal("the document is empty: one that declares no pool is written 'pools: []'")
        return Source(self.root, tuple(self.problems))

    def problem(self, line: int, message: str) -> None:
        """Something wrong with the value or key that comes next."""
        self.problems.append(Problem(path_text(self._path()), message, line))

    def stop(self, line: int, message: str, where: str = "") -> NoReturn:
        """Something for which the text is not read any further."""
        raise DocumentInvalid([*self.problems, Problem(where, message, line)])

    def _path(self) -> Path:
        steps: list[str | int] = []
        for frame in self._frames:
            if isinstance(frame.node, Sequence):
                steps.append(len(frame.node.items) - (frame is not self._frames[-1]))
            elif frame.key is not None and not frame.awaits_key:
                steps.append(frame.key)
        return tuple(steps)

    @property
    def _awaits_key(self) -> bool:
        return bool(self._frames) and self._frames[-1].awaits_key

    def _count(self, line: int) -> None:
        self._values += 1
        if self._values > MAX_DOCUMENT_VALUES:
            self.stop(line, f"more than {MAX_DOCUMENT_VALUES} values: declare fewer pools")
        if self._frames and (self._awaits_key or isinstance(self._frames[-1].node, Sequence)):
            frame = self._frames[-1]
            frame.entries += 1
            if frame.entries > MAX_DOCUMENT_ENTRIES:
                where = path_text(self._path()[: len(self._frames) - 1])
                self.stop(line, f"has more than {MAX_DOCUMENT_ENTRIES} entries, the most that any list may have", where)

    def _take_key(self, frame: _Frame, line: int, key: str) -> None:
        frame.awaits_key, frame.key, frame.key_line = False, key, line
        if isinstance(frame.node, Mapping) and key in frame.node.members:
            self.problem(line, f"key {shown(key)} is given twice, first on line {frame.node.members[key][0]}")

    def _attach(self, node: Node, *, done: bool = True) -> None:
        if not self._frames:
            self.root = node
            return
        frame = self._frames[-1]
        if isinstance(frame.node, Sequence):
            frame.node.items.append(node)
        elif frame.key is not None:
            frame.node.members.setdefault(frame.key, (frame.key_line, node))
        if done:
            self._value_done()

    def _value_done(self) -> None:
        if self._frames and isinstance(self._frames[-1].node, Mapping):
            self._frames[-1].awaits_key, self._frames[-1].key = True, None


# --- YAML ------------------------------------------------------------------------------------------------------------

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# A line of libyaml's begins after any of these.
_DIRECTIVE = re.compile("(?<![^\r\n\x85\u2028\u2029])%")

_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:[0-9]*\.[0-9]+|[0-9]+\.|[0-9]+(?:\.[0-9]*)?(?=[eE]))(?:[eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_MAX_INTEGER_CHARS = 40


class _Dumper(yaml.SafeDumper):
    """PyYAML writes by YAML 1.1, where ``1e3`` is text; here it is a number, so that text must get quotes."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"(?:{_FLOAT.pattern})$"), list("-+.0123456789"))


def _read_yaml(text: str, json_problem: Problem | None) -> Source:
    # libyaml takes quadratic time over directives, so they are refused before it sees them.
    if directive := _DIRECTIVE.search(text):
        line = len(_LINE_END.findall(text, 0, directive.start())) + 1
        raise _refusal("a line that begins with % is a YAML directive, which is not allowed here", line)
    tree = _Tree()
    try:
        # Events, not nodes: the bounds must hold while libyaml reads, since deep nesting costs it quadratic time.
        for event in yaml.parse(text, Loader=_LOADER):
            _take_event(tree, event)
    except yaml.YAMLError as error:
        raise DocumentInvalid([*tree.problems, json_problem or _yaml_problem(error, text)]) from None
    return tree.finish()


def _take_event(tree: _Tree, event: yaml.Event) -> None:
    line = event.start_mark.line + 1 if event.start_mark is not None else 1
    if isinstance(event, yaml.DocumentStartEvent) and tree.root is not None:
        tree.stop(line, "a second YAML document begins here: give each document a file of its own")
    if isinstance(event, yaml.CollectionEndEvent):
        tree.close()
    elif isinstance(event, yaml.NodeEvent):
        refused = _refuse_extras(tree, event, line)
        if isinstance(event, yaml.ScalarEvent):
            value = _plain_value(event.value) if event.implicit[0] else event.value
            tree.scalar(line, event.value, value, refused=refused)
        elif isinstance(event, yaml.SequenceStartEvent):
            tree.open(Sequence(line))
        elif isinstance(event, yaml.MappingStartEvent):
            tree.open(Mapping(line))
        else:
            tree.scalar(line, f"*{event.anchor}", None, refused=True)


def _refuse_extras(tree: _Tree, event: yaml.NodeEvent, line: int) -> bool:
    if isinstance(event, yaml.AliasEvent):
        tree.problem(line, f"alias {shown(f'*{event.anchor}')} is not allowed: write the value out")
        return True
    if event.anchor is not None:
        tree.problem(line, f"anchor {shown(f'&{event.anchor}')} is not allowed: write the value out where it is needed")
    if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
        tree.problem(line, f"tag {shown(event.tag)} is not allowed: put text that looks like something else in quotes")
        return True
    return False


def _plain_value(text: str) -> Value:
    """A scalar without quotes, by the core schema of YAML 1.2, except that hexadecimal and octal numbers stay text."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "-+.0123456789":
        return text
    if _INTEGER.fullmatch(text) or _FLOAT.fullmatch(text):
        return _number(text)
    if _NO_NUMBER.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def _number(text: str) -> int | float:
    # A longer integer can't be within any bound; int() would refuse it or take quadratic time, float() does not.
    return int(text) if len(text) <= _MAX_INTEGER_CHARS and text.lstrip("-+").isdigit() else float(text)


def _yaml_problem(error: yaml.YAMLError, text: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or "it cannot be read"
    line = mark.line + 1 if mark is not None else None
    if line is not None:
        lines = _LINE_END.split(text)
        line = min(line, len(lines))
        if "\t" in lines[line - 1][: -len(lines[line - 1].lstrip()) or None]:
            return Problem("", "not valid YAML: the line is indented with a tab, YAML allows only spaces", line)
    context, begin = getattr(error, "context", None), getattr(error, "context_mark", None)
    if context and begin is not None and begin.line + 1 != line:
        what = f"{what} ({context} that begins on line {begin.line + 1})"
    return Problem("", f"not valid YAML: {what}", line)


# --- JSON ------------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""[ \t\r\n]*+(?:
        (?P<mark>[{}\[\]:,])
      | (?P<string>"(?:[^"\\\x00-\x1f]++|\\.)*+")
      | (?P<number>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)
      | (?P<word>true|false|null)
      | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_JSON_WORDS = {"true": True, "false": False, "null": None}


class _NotJson(Exception):
    def __init__(self, message: str, line: int) -> None:
        self.message, self.line = message, line


class _JsonReader:
    """Recursive descent; the tree bounds the depth. Writes what it finds to ``tree``."""

    def __init__(self, text: str, tree: _Tree) -> None:
        self._text, self._tree = text, tree
        self._line_ends = [match.start() for match in _LINE_END.finditer(text)]
        self._position = 0
        self._kind, self._token, self._line = "", "", 1

    def read(self) -> None:
        self._advance()
        self._value()
        if self._kind != "end":
            self._unexpected("the end")

    def _advance(self) -> None:
        match = _TOKEN.match(self._text, self._position)
        if match is None or match.lastgroup is None:
            start = _FIRST.search(self._text, self._position)
            assert start is not None  # the end is a token
            self._locate(start.start())
            raise _NotJson(f"{shown(start[0])} cannot stand here", self._line)
        self._kind, self._token = match.lastgroup, match[match.lastgroup]
        self._locate(match.start(match.lastgroup))
        self._position = match.end()

    def _locate(self, position: int) -> None:
        self._line = bisect_left(self._line_ends, position) + 1

    def _unexpected(self, wanted: str) -> NoReturn:
        found = "the end" if self._kind == "end" else shown(self._token)
        raise _NotJson(f"expected {wanted}, found {found}", self._line)

    def _string(self) -> str:
        try:
            text: str = json.loads(self._token)
        except ValueError as error:
            raise _NotJson(f"{shown(self._token)} is no JSON string: {error}", self._line) from None
        return text

    def _value(self) -> None:
        if self._token == "{":
            self._tree.open(Mapping(self._line))
            self._members("}", self._member)
        elif self._token == "[":
            self._tree.open(Sequence(self._line))
            self._members("]", self._value)
        elif self._kind == "string":
            text = self._string()
            self._tree.scalar(self._line, text, text)
            self._advance()
        elif self._kind == "number":
            self._tree.scalar(self._line, self._token, _number(self._token))
            self._advance()
        elif self._kind == "word":
            self._tree.scalar(self._line, self._token, _JSON_WORDS[self._token])
            self._advance()
        else:
            self._unexpected("a value")

    def _members(self, end: str, member: Callable[[], None]) -> None:
        self._advance()
        if self._token != end:
            member()
            while self._token == ",":
                self._advance()
                member()
        if self._token != end:
            self._unexpected(f"',' or {end!r}")
        self._tree.close()
        self._advance()

    def _member(self) -> None:
        if self._kind != "string":
            self._unexpected("a key in double quotes")
        key = self._string()
        self._tree.scalar(self._line, key, key)
        self._advance()
        if self._token != ":":
            self._unexpected("':'")
        self._advance()
        self._value()


def _read_json(text: str) -> Source:
    tree = _Tree()
    _JsonReader(text, tree).read()
    return tree.finish()
