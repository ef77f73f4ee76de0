"""Settings: where they come from, what is refused and how that is said, and what is never shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pyscheduler.core.urls import masked_url
from pyscheduler.errors import InvalidInput
from pyscheduler.settings import (
    ENV_PREFIX,
    MAX_SETTINGS_BYTES,
    ServeSettings,
    Setting,
    SettingsInvalid,
    StoreSettings,
    default_state_dir,
    describe,
)

SECRET = "hunter2"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


# --- where values come from ------------------------------------------------------------------------------------------


def test_the_defaults_are_for_one_machine() -> None:
    settings = ServeSettings()
    assert (settings.host, settings.port) == ("127.0.0.1", 5010)
    assert (settings.operator_host, settings.operator_port) == ("127.0.0.1", 5011)
    assert settings.redis_url is None
    assert settings.namespace == "pyscheduler"
    assert settings.lease_ms == 45_000
    assert settings.silence_ms == 135_000


def test_flags_come_before_the_environment_and_that_before_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("port = 1\noperator_port = 1\nlease_ms = 1001\n")
    monkeypatch.setenv("PYSCHEDULER_PORT", "2")
    monkeypatch.setenv("PYSCHEDULER_OPERATOR_PORT", "2")
    settings = ServeSettings.load(file=file, flags={"port": 3, "operator_port": None})
    assert (settings.port, settings.operator_port, settings.lease_ms) == (3, 2, 1001)


def test_case_plays_no_part_in_the_name_of_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("pyscheduler_Lease_ms", "1001")
    assert ServeSettings.load().lease_ms == 1001


@pytest.mark.parametrize("setting", describe(), ids=lambda setting: setting.name)
def test_each_setting_has_a_flag_a_variable_and_a_key(
    setting: Setting, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, expected = _other_value(setting)
    assert ServeSettings.load(flags={setting.name: value}).model_dump()[setting.name] == expected
    file.write_text(f"{setting.name} = {value!r}\n" if isinstance(value, str | int) else "")
    assert ServeSettings.load(file=file).model_dump()[setting.name] == expected
    monkeypatch.setenv(setting.env, str(value))
    assert ServeSettings.load().model_dump()[setting.name] == expected
    assert setting.flag == "--" + setting.name.replace("_", "-")


def _other_value(setting: Setting) -> tuple[Any, Any]:
    """A value that is not the default, and what it becomes."""
    from pydantic import SecretStr

    special: dict[str, tuple[Any, Any]] = {
        "redis_url": ("redis://example:6379/0", SecretStr("redis://example:6379/0")),
        "core_services": ("ASR, lexicon", ("asr", "lexicon")),
        "require_all_running": ("false", False),
        # Bounded by max_frame_bytes, which is at its default here.
        "max_frame_bytes": (2**25, 2**25),
        "max_message_bytes": (2048, 2048),
    }
    if setting.name in special:
        return special[setting.name]
    match setting.kind:
        case "integer":
            assert setting.minimum is not None
            assert setting.maximum is not None
            chosen = setting.minimum if setting.default != setting.minimum else setting.maximum
            return chosen, chosen
        case "choice":
            other = next(choice for choice in setting.choices if choice != setting.default)
            return other, other
        case "path":
            return "/somewhere", Path("/somewhere")
    return "other", "other"


def test_a_switch_may_be_a_truth_value_in_the_file(file: Path) -> None:
    file.write_text('require_all_running = false\ncore_services = ["asr"]\n')
    settings = ServeSettings.load(file=file)
    assert settings.require_all_running is False
    assert settings.core_services == ("asr",)


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSCHEDULER_REDIS_URL", "")
    monkeypatch.setenv("PYSCHEDULER_PORT", "")
    settings = ServeSettings.load()
    assert settings.redis_url is None
    assert settings.port == 5010


def test_an_empty_path_is_not_the_current_directory(file: Path) -> None:
    file.write_text('pools = ""\n')
    settings = ServeSettings.load(file=file, flags={"state_dir": ""})
    assert settings.state_dir is None
    assert settings.pools is None


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        ServeSettings().port = 1  # type: ignore[misc]


def test_the_state_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_state_dir() == tmp_path / "pyscheduler"
    monkeypatch.setenv("XDG_STATE_HOME", "relative/paths/are/to/be/ignored")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_state_dir() == Path("/home/somebody/.local/state/pyscheduler")


# --- what is refused -------------------------------------------------------------------------------------------------


def test_unknown_keys_of_the_file_are_refused_with_the_nearest_known_one(file: Path) -> None:
    file.write_text('lease-ms = 5\nhots = "x"\nnothing_like_it = 1\n[section]\n')
    with pytest.raises(SettingsInvalid) as refused:
        ServeSettings.load(file=file)
    text = str(refused.value)
    assert "did you mean lease_ms?" in text
    assert "did you mean host?" in text
    assert "nothing_like_it" in text
    assert "section" in text
    assert len(refused.value.problems) == 4
    assert refused.value.exit_code == 2


def test_every_problem_is_told_at_once_and_says_where_the_value_came_from(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('log_format = "yaml"\nmax_connections = true\n')
    monkeypatch.setenv("PYSCHEDULER_LEASE_MS", "-1")
    with pytest.raises(SettingsInvalid) as refused:
        ServeSettings.load(file=file, flags={"port": 70_000})
    places = {problem.where for problem in refused.value.problems}
    assert places == {f"log_format in {file}", f"max_connections in {file}", "PYSCHEDULER_LEASE_MS", "--port"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", -1),
        ("port", 65_536),
        ("port", "http"),
        ("port", 1.5),
        ("port", True),
        ("host", ""),
        ("host", "two words"),
        ("host", "x" * 300),
        ("namespace", ""),
        ("namespace", "{tag}"),
        ("namespace", "n" * 65),
        ("instance_id", "not an id"),
        ("instance_id", "i" * 65),
        ("redis_url", "http://example"),
        ("redis_url", "example:6379"),
        ("redis_url", "redis://example:port"),
        ("redis_url", "unix://"),
        ("lease_ms", 0),
        ("lease_ms", 10**9),
        ("node_id_conflict", "ignore"),
        ("core_services", ""),
        ("core_services", "a b"),
        ("log_level", "chatty"),
    ],
)
def test_values_out_of_bounds_are_refused(name: str, value: Any) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        ServeSettings.load(flags={name: value})
    assert refused.value.problems[0].where.startswith("--" + name.replace("_", "-"))


def test_a_message_may_not_be_larger_than_its_frame() -> None:
    with pytest.raises(SettingsInvalid, match="max_message_bytes must not be above max_frame_bytes"):
        ServeSettings.load(flags={"max_frame_bytes": 2048, "max_message_bytes": 4096})


def test_a_flag_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SettingsInvalid, match="there is no such setting"):
        ServeSettings.load(flags={"prot": 5010})


def test_what_kubernetes_puts_into_the_port_variable_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSCHEDULER_PORT", "tcp://10.0.0.1:5010")
    with pytest.raises(SettingsInvalid, match="enableServiceLinks"):
        ServeSettings.load()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"port = ", "not TOML"),
        (b"port: 5010\n", "not TOML"),
        (b"\xff\xfe", "not TOML"),
        (b"x = " + b"[" * 20_000, "not TOML"),
        (b"#" * (MAX_SETTINGS_BYTES + 1), "larger than"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(file: Path, content: bytes, said: str) -> None:
    file.write_bytes(content)
    with pytest.raises(SettingsInvalid, match=said):
        ServeSettings.load(file=file)


def test_a_file_that_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(InvalidInput, match=r"cannot read.*settings\.toml"):
        ServeSettings.load(file=file)


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_the_password_of_the_store_is_not_shown() -> None:
    settings = ServeSettings(redis_url=f"redis://user:{SECRET}@example:6379/0")
    shown = (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump()))
    assert not any(SECRET in text for text in shown)
    assert settings.shown_redis_url == "redis://user:***@example:6379/0"
    assert settings.redis_url is not None
    assert SECRET in settings.redis_url.get_secret_value()


def test_what_a_log_must_not_hold_is_known_in_each_form() -> None:
    assert ServeSettings().secrets == ()
    assert ServeSettings(redis_url="redis://example").secrets == ()
    assert set(ServeSettings(redis_url="redis://:a%2Fb@example").secrets) == {"a%2Fb", "a/b", "a%252Fb"}
    assert set(ServeSettings(redis_url=f"unix:///socket?password={SECRET}").secrets) == {SECRET}


@pytest.mark.parametrize(
    "url", [f"http://:{SECRET}@example", f"redis://:{SECRET}@example:port", f"redis://:a/{SECRET}@example:6379"]
)
def test_the_password_of_a_refused_url_is_not_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSCHEDULER_REDIS_URL", url)
    with pytest.raises(SettingsInvalid) as refused:
        ServeSettings.load()
    assert SECRET not in str(refused.value)
    assert SECRET not in repr(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://example:6379/0", "redis://example:6379/0"),
        (f"redis://:{SECRET}@example/0", "redis://:***@example/0"),
        (f"rediss://user:{SECRET}@example:6380", "rediss://user:***@example:6380"),
        (f"redis://user:{SECRET}@[::1]:6379/0", "redis://user:***@[::1]:6379/0"),
        (f"unix:///run/redis.sock?password={SECRET}&db=1", "unix:///run/redis.sock?password=***&db=1"),
        (f"redis://:{SECRET}@[::1", "***"),
        (f"redis://:1/{SECRET}@example/0", "redis://***"),
        (f"redis://:1#{SECRET}@example/0", "redis://***"),
        (f"redis://:a@{SECRET}@example/0", "redis://:***@example/0"),
    ],
)
def test_urls_are_shown_without_their_password(url: str, shown: str) -> None:
    assert masked_url(url) == shown
    assert SECRET not in masked_url(url)


# --- the list --------------------------------------------------------------------------------------------------------


def test_the_list_has_every_setting_in_full() -> None:
    settings = describe()
    assert [setting.name for setting in settings] == list(ServeSettings.model_fields)
    for setting in settings:
        assert setting.env == ENV_PREFIX + setting.name.upper()
        assert setting.description.endswith(".")
        assert len(setting.description) < 250
        assert (setting.minimum is None) == (setting.maximum is None)
        assert bool(setting.choices) == (setting.kind == "choice")
        if setting.kind == "integer":
            assert setting.minimum is not None
    assert [setting.name for setting in settings if setting.secret] == ["redis_url"]


def test_the_list_of_the_store_settings_is_the_beginning() -> None:
    names = [setting.name for setting in describe(StoreSettings)]
    assert names == ["redis_url", "namespace", "state_dir"]


def test_the_settings_that_people_are_promised_are_there() -> None:
    promised = {
        *("--redis-url", "--namespace", "--state-dir", "--host", "--port", "--operator-host", "--operator-port"),
        *("--instance-id", "--pools", "--log-format"),
    }
    assert promised <= {setting.flag for setting in describe()}
