"""``pyscheduler config``: the configuration document in force, its schema, and a check of a file."""

from __future__ import annotations

import json

import rich_click as click

from pyscheduler.cli import output
from pyscheduler.cli.options import json_option, store_options
from pyscheduler.cli.target import StoreTarget, with_allocator
from pyscheduler.cli.text import counted


@click.group()
def config() -> None:
    """Show the configuration document and its schema, check a file."""


@config.command()
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="The document that was in force at version N.")
@json_option
@store_options
def show(store: StoreTarget, version: int | None, as_json: bool) -> None:
    """Print the configuration document in force, as YAML that 'pool sync -f' takes back."""
    from pyscheduler.core.document import PoolDocument
    from pyscheduler.core.source import yaml_text

    stored = with_allocator(store, lambda allocator: allocator.document(version))
    document = PoolDocument.from_canonical(stored.json) if stored.json else PoolDocument()
    if as_json:
        output.emit({"version": stored.version, "digest": document.digest, "document": document.to_data()})
        return
    heading = (
        f"document version {stored.version}" if stored.json else "no document has been synchronised: the defaults hold"
    )
    text = f"# {heading}\n{yaml_text(document.to_data())}"
    out = output.console()
    if not out.is_terminal:
        click.echo(text, nl=False)
        return
    from rich.syntax import Syntax

    out.print(Syntax(text, "yaml", theme="ansi_dark", background_color="default", word_wrap=True))


@config.command()
def schema() -> None:
    """Print the JSON Schema of the configuration document, for editors."""
    from pyscheduler.core.reader import document_schema

    click.echo(json.dumps(document_schema(), indent=2))


@config.command("check-file")
@click.argument("path", metavar="FILE")
@json_option
def check_file(path: str, as_json: bool) -> None:
    """Check a configuration file without a store: every problem at once, with its line. '-' reads standard input."""
    from pyscheduler.cli.inputs import read_document

    document = read_document(path)
    if as_json:
        output.emit({"ok": True, "digest": document.digest, "document": document.to_data()})
        return
    output.console().print(
        output.text(f"ok: {counted(len(document.pools), 'pool')}, in the order they are tried:", "green")
    )
    out = output.console()
    grid = output.table(out, "POOL", "PRIORITY", "CONSTRAINTS", numeric=("PRIORITY", "CONSTRAINTS"))
    for pool in document.in_match_order():
        output.row(grid, pool.name, str(pool.priority), str(pool.match.constraints))
    if document.pools:
        output.show(out, grid)
