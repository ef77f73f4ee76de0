"""Where a Lua file can be counted, and its text with the counters in it.

A *line* is one in which a statement begins. A *branch* is one way out of a decision: each condition of an ``if`` that
was true, the ``if`` of which none was, and the left side of each ``and`` and ``or``, true and false.
"""

from __future__ import annotations

from dataclasses import dataclass

from tree_sitter import Node

from tools.syntax import line_of, parse, text_of

MARK = "covered"
"""What a log line with numbers of points begins with."""

_STATEMENTS = {
    "assignment_statement",
    "do_statement",
    "for_statement",
    "function_call",
    "function_declaration",
    "if_statement",
    "repeat_statement",
    "return_statement",
    "variable_declaration",
    "while_statement",
}

# One table a run of the script. A log line holds 1024 bytes at most, so the numbers go out in portions.
_BEFORE = (
    "local _seen = {} "
    "local function _hit(point) _seen[point] = true end "
    "local function _is(point, value) _seen[value and point or point + 1] = true return value end "
    "local function _script() "
)
_AFTER = (
    "\nend "
    "local _ok, _answer = pcall(_script) local _points = {} "
    "for point in pairs(_seen) do _points[#_points + 1] = point end "
    "for first = 1, #_points, 150 do "
    f"redis.log(redis.LOG_WARNING, '{MARK} ' .. table.concat(_points, ' ', first, math.min(first + 149, #_points))) "
    "end "
    "if not _ok then error(_answer, 0) end "
    "return _answer\n"
)


@dataclass(frozen=True, slots=True)
class Point:
    """One thing that tests reach or do not.

    Attributes:
        file: path below the top of the tree.
        line: from 1.
        what: empty for a line; for a branch what happens there, such as ``if: true``.
    """

    file: str
    line: int
    what: str


class _Counted:
    def __init__(self, path: str, first: int) -> None:
        self.path, self.first = path, first
        self.points: list[Point] = []
        self.inserts: list[tuple[int, int, str]] = []

    def point(self, node: Node, what: str) -> int:
        self.points.append(Point(self.path, line_of(node), what))
        return self.first + len(self.points) - 1

    def insert(self, offset: int, text: str) -> None:
        self.inserts.append((offset, len(self.inserts), text))

    def look_at(self, node: Node) -> None:
        if node.type in _STATEMENTS and node.parent is not None and node.parent.type in ("block", "chunk"):
            self.insert(node.start_byte, f"_hit({self.point(node, '')}); ")
        if node.type == "if_statement":
            self.decision(node)
        if node.type == "binary_expression" and node.children[1].type in ("and", "or"):
            left, operator = node.children[:2]
            said = f"{operator.type} after {' '.join(text_of(left).split())[:60]}"
            true = self.point(operator, f"{said}: true")
            self.point(operator, f"{said}: false")
            self.insert(left.start_byte, f"_is({true}, ")
            self.look_below(node.children[:1])
            self.insert(left.end_byte, ")")
            self.look_below(node.children[1:])
        else:
            self.look_below(node.children)

    def look_below(self, nodes: list[Node]) -> None:
        for node in nodes:
            self.look_at(node)

    def decision(self, node: Node) -> None:
        for clause in [node, *node.children_by_field_name("alternative")]:
            if clause.type == "elseif_statement":
                # No counter can stand before it: its condition is counted where it is.
                condition = clause.children[1]
                true = self.point(clause, "elseif: true")
                self.point(clause, "elseif: false")
                self.insert(condition.start_byte, f"_is({true}, ")
                self.insert(condition.end_byte, ")")
                continue
            opening = next(child for child in clause.children if child.type in ("then", "else"))
            said = "else" if clause.type == "else_statement" else "if: true"
            self.insert(opening.end_byte, f" _hit({self.point(clause, said)}); ")
        if all(clause.type != "else_statement" for clause in node.children_by_field_name("alternative")):
            end = node.children[-1]
            self.insert(end.start_byte, f" else _hit({self.point(node, 'if: none true')}); ")


def instrument(path: str, text: str, first: int) -> tuple[str, list[Point]]:
    """A file with counters in it. Lines keep their numbers.

    Args:
        path: the file's path below the top of the tree. One directly in ``lua/`` is a script, and logs what it has
            counted.
        text: the file's text.
        first: number of its first point; the others follow it.

    Returns:
        the text with the counters, and what they count, in the order of their numbers.
    """
    counted = _Counted(path, first)
    root = parse(text, "lua")
    if path.count("/") == 1:
        counted.insert(next(child for child in root.children if child.type in _STATEMENTS).start_byte, _BEFORE)
    counted.look_at(root)
    raw, pieces, at = text.encode(), [], 0
    for offset, _, inserted in sorted(counted.inserts):
        pieces += [raw[at:offset], inserted.encode()]
        at = offset
    pieces.append(raw[at:])
    if path.count("/") == 1:
        pieces.append(_AFTER.encode())
    return b"".join(pieces).decode(), counted.points
