"""docs/settings.md names every setting with its flag, variable, kind, bounds, default and meaning."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from pyscheduler.settings import MAX_SETTINGS_BYTES, ServeSettings, Setting, SettingsInvalid, describe

PAGE = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")


def kind(setting: Setting) -> str:
    """Kind and bounds of a setting, in words."""
    match setting.kind:
        case "integer":
            assert setting.minimum is not None, f"{setting.name} has no bounds"
            assert setting.maximum is not None, f"{setting.name} has no bounds"
            return f"integer, {setting.minimum:,} to {setting.maximum:,}"
        case "choice":
            return " or ".join(f"`{choice}`" for choice in setting.choices)
        case "list":
            return "list with commas"
    return setting.kind


def default(setting: Setting) -> str:
    if setting.default is None:
        return ""
    return ("`true`" if setting.default else "`false`") if setting.kind == "switch" else f"`{setting.default}`"


def flags(setting: Setting) -> str:
    name = setting.flag.removeprefix("--")
    return " ".join(f"`--{flag}`" for flag in ((name, f"no-{name}") if setting.kind == "switch" else (name,)))


def row(setting: Setting) -> str:
    names = f"| `{setting.name}` | {flags(setting)} `{setting.env}` "
    return f"{names}| {kind(setting)} | {default(setting)} | {setting.description} |"


def test_every_setting_is_there_as_the_code_has_it() -> None:
    rows = [row(setting) for setting in describe()]
    found = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert found == rows, "the tables should hold\n" + "\n".join(rows)


def example() -> str:
    found = re.search(r"^```toml\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def test_the_example_file_loads_with_the_values_it_gives(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.toml"
    file.write_text(example(), encoding="utf-8")
    settings = ServeSettings.load(file=file)
    for name, value in tomllib.loads(example()).items():
        assert name in settings.model_fields_set
        if isinstance(value, int):
            assert getattr(settings, name) == value


def test_a_flag_comes_before_the_environment_and_that_before_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order that the page gives."""
    file = tmp_path / "scheduler.toml"
    file.write_text("port = 6001\n", encoding="utf-8")
    assert ServeSettings.load(file=file).port == 6001
    monkeypatch.setenv("PYSCHEDULER_PORT", "6002")
    assert ServeSettings.load(file=file).port == 6002
    assert ServeSettings.load(file=file, flags={"port": 6003}).port == 6003


def test_the_refusals_that_the_page_shows_are_those_of_the_code(tmp_path: Path) -> None:
    shown = re.search(r"^```toml\n# wrong.*?\n(.*?)^```\n\n```text\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert shown is not None
    file = tmp_path / "scheduler.toml"
    for text, answer in zip(shown[1].splitlines(), shown[2].splitlines(), strict=True):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(SettingsInvalid) as caught:
            ServeSettings.load(file=file)
        assert str(caught.value).replace(str(file), "scheduler.toml") == answer


def test_the_size_of_a_settings_file_is_given() -> None:
    assert f"{MAX_SETTINGS_BYTES // 1024} KiB" in PAGE
