"""The settings: what the environment may say, and what is said back when it is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backend.errors import SettingsError
from backend.settings import Settings, documented, read_settings_file

KEY = {"LABEL_STUDIO_API_KEY": "t" * 40}
SECRETS = {"BACKEND_PASSWORD": "p" * 12, "WEBHOOK_SECRET": "w" * 12, "SESSION_SECRET": "s" * 12}


def faults(**env: str) -> str:
    with pytest.raises(SettingsError) as error:
        Settings.from_environment({**KEY, **env})
    return str(error.value)


def test_api_key_alone_is_enough_on_this_machine() -> None:
    settings = Settings.from_environment(KEY)
    assert settings.is_local
    assert settings.train_after_rankings == 50
    assert settings.store_url == f"sqlite:///{Path('var/data/backend.sqlite3').absolute()}"


def test_every_kind_of_value_is_read() -> None:
    settings = Settings.from_environment(
        {**KEY, "BACKEND_PORT": "1234", "GATE_ACCURACY": "0.9", "AUTO_PPO": "no", "DATA_DIR": "/x",
         "ALLOWED_HOSTS": "a.example, b.example", "AUTO_PROMOTE": "better", "CONSOLE_LANGUAGE": "zh"}
    )  # fmt: skip
    assert (settings.port, settings.gate_accuracy, settings.auto_ppo) == (1234, 0.9, False)
    assert (settings.data_dir, settings.auto_promote, settings.language) == (Path("/x"), "better", "zh")
    assert settings.hosts >= {"a.example", "b.example", "localhost", "127.0.0.1"}


def test_locale_variable_is_not_taken_for_the_consoles_language() -> None:
    assert Settings.from_environment({**KEY, "LANGUAGE": "en_US:en"}).language == ""


def test_all_faults_are_listed_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_environment({"BACKEND_PORT": "many", "GATE_ACCURACY": "2", "LABEL_STUDIO_URL": "ls:80"})
    text = str(error.value)
    names = ("BACKEND_PORT", "GATE_ACCURACY", "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY")
    assert all(name in text for name in names)
    assert len(error.value.faults) == 4


@pytest.mark.parametrize("missing", sorted(SECRETS))
def test_reachable_backend_without_a_secret_does_not_start(missing: str) -> None:
    assert missing in faults(BACKEND_HOST="0.0.0.0", **{**SECRETS, missing: "short"})  # noqa: S104


def test_reachable_backend_with_its_secrets_starts() -> None:
    assert not Settings.from_environment({**KEY, **SECRETS, "BACKEND_HOST": "0.0.0.0"}).is_local  # noqa: S104


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_loopback_needs_no_secret(host: str) -> None:
    assert Settings.from_environment({**KEY, "BACKEND_HOST": host}).is_local


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("BACKEND_URL", "http://backend:9090", "dot"),
        ("BACKEND_URL", "ftp://x.y", "http://HOST"),
        ("LABEL_STUDIO_URL", "http://me:secret@x.y", "password"),
        ("CANDIDATES_PER_PROMPT", "5", "2 to 4"),
        ("AUTO_PROMOTE", "always", "`better`"),
        ("AUTO_PPO", "maybe", "true or false"),
        ("RECONCILE_SECONDS", "nan", "0.05"),
        ("GATE_ACCURACY", "0.4", "0.5 to 1"),
    ],
)
def test_wrong_value_says_what_is_needed(name: str, value: str, said: str) -> None:
    text = faults(**{name: value})
    assert name in text
    assert said in text
    assert "secret" not in text


def test_secrets_are_neither_shown_nor_quoted() -> None:
    settings = Settings.from_environment({**KEY, **SECRETS, "DATABASE_URL": "postgresql://u:canary@h/d"})
    for secret in (*SECRETS.values(), KEY["LABEL_STUDIO_API_KEY"], "canary"):
        assert secret not in repr(settings)


def test_file_gives_what_the_environment_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "settings.env"
    path.write_text("# ours\n\nLABEL_STUDIO_API_KEY = from-file\nBACKEND_PORT=7\n", encoding="utf-8")
    for name in [n for n in os.environ if n.startswith(("LABEL_STUDIO", "BACKEND_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SETTINGS_FILE", str(path))
    monkeypatch.setenv("BACKEND_PORT", "8")
    settings = Settings.from_environment()
    assert (settings.label_studio_api_key, settings.port) == ("from-file", 8)


def test_file_with_a_broken_line_names_it(tmp_path: Path) -> None:
    path = tmp_path / "settings.env"
    path.write_text("A=1\nhello\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="line 2"):
        read_settings_file(path)
    assert read_settings_file(tmp_path / "none") == {}


def test_every_setting_is_documented_with_its_own_variable() -> None:
    settings = documented()
    assert all(setting.doc.endswith(".") for setting in settings)
    assert len({setting.variable for setting in settings}) == len(settings)
    by_name = {setting.name: setting for setting in settings}
    assert by_name["host"].variable == "BACKEND_HOST"
    assert by_name["train_after_rankings"].default == "50"
    assert by_name["webhook_secret"].secret


@pytest.mark.parametrize("base_model", ["/nope", "./nope", "~/nope"])
def test_base_model_that_is_a_path_to_nothing_is_refused(base_model: str) -> None:
    with pytest.raises(SettingsError, match=r"`BASE_MODEL` is .*nope"):
        Settings.from_environment({"LABEL_STUDIO_API_KEY": "0" * 40, "BASE_MODEL": base_model})


def test_base_model_is_a_directory_or_a_hub_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    for base_model in (str(tmp_path), "Qwen/Qwen2.5-0.5B-Instruct"):
        env = {"LABEL_STUDIO_API_KEY": "0" * 40, "BASE_MODEL": base_model}
        assert Settings.from_environment(env).base_model == base_model
