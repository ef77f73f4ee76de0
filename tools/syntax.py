"""Syntax trees of Lua and Python, with the place of every token in the text."""

from __future__ import annotations

from collections.abc import Iterator

import tree_sitter_lua
import tree_sitter_python
from tree_sitter import Language, Node, Parser

_LANGUAGES = {"lua": Language(tree_sitter_lua.language()), "py": Language(tree_sitter_python.language())}


def parse(text: str, language: str) -> Node:
    """The tree of a text.

    Args:
        text: a whole file.
        language: ``lua`` or ``py``.

    Raises:
        ValueError: the text is not of that language; the message names the line.
    """
    root = Parser(_LANGUAGES[language]).parse(text.encode()).root_node
    if root.has_error:
        wrong = next(node for node in walk(root) if node.is_error or node.is_missing)
        raise ValueError(f"line {line_of(wrong)}: no {language}")
    return root


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it, in the order of the text."""
    yield node
    for child in node.children:
        yield from walk(child)


def line_of(node: Node) -> int:
    """Number of the line that the node begins in, from 1."""
    return int(node.start_point[0]) + 1


def text_of(node: Node) -> str:
    return (node.text or b"").decode()
