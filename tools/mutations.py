"""Small faults that can be put into a Lua or Python text, one at a time.

A test suite that passes with such a fault in the code does not test what the code does there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tree_sitter import Node

from tools.syntax import line_of, parse, text_of

_OPERATORS = {
    "==": ["~="],
    "~=": ["=="],
    "!=": ["=="],
    "<": ["<=", ">="],
    "<=": ["<", ">"],
    ">": [">=", "<="],
    ">=": [">", "<"],
    "and": ["or"],
    "or": ["and"],
    "+": ["-"],
    "-": ["+"],
    "*": ["+"],
    "/": ["*"],
    "//": ["*"],
    "|": ["&"],
    "&": ["|"],
    "in": ["not in"],
    "not in": ["in"],
    "is": ["is not"],
    "is not": ["is"],
}
_SWAPS = {
    "math.min": "math.max",
    "math.max": "math.min",
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "math.ceil": "math.floor",
    "math.floor": "math.ceil",
    "true": "false",
    "false": "true",
    "True": "False",
    "False": "True",
    "break": "continue",
    "continue": "break",
}
_BINARY = {"binary_expression", "binary_operator", "boolean_operator", "comparison_operator"}
_NEGATIONS = {"unary_expression", "not_operator"}

_CONDITIONAL = {"if_statement", "elseif_statement", "elif_clause", "conditional_expression"}
_WORDS = {
    "attribute",
    "break_statement",
    "continue_statement",
    "dot_index_expression",
    "false",
    "identifier",
    "true",
}
_NOT_CODE = {
    "comment",
    "assert_statement",
    "import_statement",
    "import_from_statement",
    "future_import_statement",
}

_EXACT = 2**31
"""A greater number stands for "as many as can be counted"; one more or less is nothing to test."""

# What is said to people is not what the code does: other tests and reviewers look at that.
_MESSAGES = {"badarg", "violation", "redis.error_reply", "log.debug", "log.info", "log.warning"}

# Takes the name of what it makes, which nobody asks for.
_NAMED = {"ParamSpec", "TypeVar"}


# To return nothing instead decides nothing else.
_NO_VALUE = {"None", "False"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault.

    Attributes:
        file: path below the top of the tree.
        line: that it is in, from 1.
        key: names it, also after lines have been added above: the file, the line's text, and what changes at which
            column of it.
        start: byte that the change begins at.
        end: byte that it ends before.
        text: what stands there instead.
    """

    file: str
    line: int
    key: str
    start: int
    end: int
    text: str

    def applied(self, source: str) -> str:
        raw = source.encode()
        return (raw[: self.start] + self.text.encode() + raw[self.end :]).decode()


def mutants_of(file: str, source: str) -> list[Mutant]:
    """Every fault there is for a file, in the order of its text.

    Args:
        file: the file's path below the top of the tree; its ending names the language.
        source: the file's text.
    """
    language = file.rpartition(".")[2]
    changes: list[tuple[Node, str]] = []
    for node in _code(parse(source, language)):
        changes += _changes(node, language)
    lines, seen, found = source.splitlines(), Counter[str](), []
    for node, text in changes:
        line = lines[line_of(node) - 1]
        column = node.start_point[1] - (len(line) - len(line.lstrip()))
        change = f"{' '.join(text_of(node).split())[:50]} -> {text or 'nothing'}"
        mutant = Mutant(
            file, line_of(node), f"{file}: {line.strip()} [{column}: {change}]", node.start_byte, node.end_byte, text
        )
        seen[mutant.key] += 1
        if seen[mutant.key] > 1:
            mutant = replace(mutant, key=f"{mutant.key} #{seen[mutant.key]}")
        found.append(mutant)
    return found


def _code(node: Node) -> Iterator[Node]:
    """The nodes whose change would change what the program does."""
    if _is_talk(node):
        return
    yield node
    if node.type != "raise_statement":  # what is said with it is talk
        for child in node.children:
            yield from _code(child)


def _is_talk(node: Node) -> bool:
    if node.type in _NOT_CODE:
        return True
    if node.type == "expression_statement" and node.children[0].type == "string":
        return True  # a docstring
    if node.type == "type":
        return "Literal" not in text_of(node)  # read late, and by nobody
    if node.type == "keyword_argument":
        return text_of(node).startswith(("description=", "title=", "examples="))
    if node.type == "assignment" and text_of(node).startswith(("__all__ =", "__all__:")):
        return True  # a list of names for linters and readers
    if node.type == "assignment" and (kind := node.child_by_field_name("type")) and text_of(kind) == "TypeAlias":
        return True
    called = node.child_by_field_name("name") or node.child_by_field_name("function")
    return node.type in ("function_call", "call") and called is not None and text_of(called) in _MESSAGES | _NAMED


def _changes(node: Node, language: str) -> Iterator[tuple[Node, str]]:
    if node.type in _BINARY:
        for child in node.children:
            for other in _OPERATORS.get(child.type, []) if not child.is_named or " " in child.type else []:
                yield child, "!=" if other == "~=" and language == "py" else other
    elif node.type in _NEGATIONS and node.children[0].type == "not":
        yield node.children[0], ""
    elif node.type in ("number", "integer", "float"):
        yield from _other_numbers(node)
    elif node.type == "string":
        yield from _other_strings(node)
    elif node.type in _WORDS and text_of(node) in _SWAPS and not _is_part_of_name(node):
        yield node, _SWAPS[text_of(node)]
    elif node.type in _CONDITIONAL:
        yield from _other_conditions(node, language)
    yield from _left_out_in_lua(node) if language == "lua" else _left_out_in_python(node)


def _is_part_of_name(node: Node) -> bool:
    return node.parent is not None and node.parent.type in ("keyword_argument", "attribute", "dot_index_expression")


def _other_numbers(node: Node) -> Iterator[tuple[Node, str]]:
    number = text_of(node).replace("_", "")
    if not number.isdigit():
        yield node, f"{number} + 1"
    elif int(number) <= _EXACT:
        yield node, str(int(number) + 1)
        # A loop by steps of 0 never ends.
        if int(number) > 1:
            yield node, str(int(number) - 1)


def _other_strings(node: Node) -> Iterator[tuple[Node, str]]:
    text, arguments = text_of(node), node.parent
    first = arguments is not None and arguments.type == "arguments" and arguments.named_children[0] == node
    command = first and arguments is not None and text_of(arguments.parent or arguments).startswith("redis.call(")
    if not command and not text.startswith(('"""', "r", "f")):
        yield node, text[:-1] + "X" + text[-1]


def _other_conditions(node: Node, language: str) -> Iterator[tuple[Node, str]]:
    condition = node.child_by_field_name("condition")
    if condition is None:
        condition = node.named_children[1 if node.type == "conditional_expression" else 0]
    yield condition, "false" if language == "lua" else "False"
    if condition.type not in _BINARY | _NEGATIONS:
        yield condition, f"not ({text_of(condition)})"


def _left_out_in_lua(node: Node) -> Iterator[tuple[Node, str]]:
    """Calls, and assignments to what exists."""
    stands_alone = node.parent is not None and node.parent.type in ("block", "chunk")
    if stands_alone and node.type in ("function_call", "assignment_statement"):
        yield node, ""


def _left_out_in_python(node: Node) -> Iterator[tuple[Node, str]]:
    """Calls, assignments to parts of what exists, exceptions, and what a function returns."""
    if node.type == "raise_statement":
        yield node, "pass"
    elif node.type == "return_statement" and len(node.children) > 1 and text_of(node.children[1]) not in _NO_VALUE:
        yield node.children[1], "None"
    elif node.type == "expression_statement":
        inner = node.children[0]
        left = inner.child_by_field_name("left") if inner.type == "assignment" else None
        if inner.type in ("call", "await", "augmented_assignment") or (
            left is not None and left.type in ("attribute", "subscript")
        ):
            yield node, "pass"
