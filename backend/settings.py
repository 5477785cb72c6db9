"""The settings, and the only reader of the environment.

Everything else takes a `Settings`. `docs/settings.md` shows `documented()`, and a test holds it to that.
"""

from __future__ import annotations

import ast
import inspect
import ipaddress
import itertools
import os
import textwrap
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin
from urllib.parse import urlsplit

from backend.errors import SettingsError

EMBEDDED_BASE_MODEL = Path(__file__).resolve().parent.parent / "scripts" / "base_model" / "weights"
SETTINGS_FILE = Path("var/settings.env")
"""Values that the environment does not give; `make up` writes it, readable by its owner only."""

_VARIABLES = {
    "host": "BACKEND_HOST",
    "port": "BACKEND_PORT",
    "username": "BACKEND_USERNAME",
    "password": "BACKEND_PASSWORD",
    "language": "CONSOLE_LANGUAGE",  # LANGUAGE is the locale's
}
_SECRET_LENGTH = 12


@dataclass(frozen=True)
class Settings:
    """One running backend."""

    label_studio_url: str = "http://127.0.0.1:8080"
    """Label Studio as the backend reaches it."""
    label_studio_public_url: str = ""
    """Label Studio as people's browsers reach it, for the console's links; empty is `LABEL_STUDIO_URL`."""
    label_studio_api_key: str = field(default="", repr=False)
    """Token of the Label Studio user that the backend acts as (its Access Token page). Required."""
    label_studio_timeout_s: float = 60.0
    """How long one request to Label Studio may take."""
    backend_url: str = "http://127.0.0.1:9090"
    """The backend as Label Studio reaches it; its host must be `localhost`, an address, or have a dot."""
    host: str = "127.0.0.1"
    """Address that the backend listens on."""
    port: int = 9090
    """Port that the backend listens on."""
    allowed_hosts: tuple[str, ...] = ()
    """More host names by which browsers may call the backend, comma-separated."""
    username: str = "admin"
    """User name for the console and for Label Studio's calls."""
    password: str = field(default="", repr=False)
    """Password of that user; at least 12 characters unless the backend listens on this machine only."""
    webhook_secret: str = field(default="", repr=False)
    """Secret that Label Studio's webhooks carry; same rule as the password."""
    session_secret: str = field(default="", repr=False)
    """Key that signs the console's sessions; same rule as the password."""
    data_dir: Path = Path("var/data")
    """Directory for runs, models and the database."""
    database_url: str = field(default="", repr=False)
    """SQLAlchemy URL; empty is SQLite in `data_dir`. Workers on other hosts need PostgreSQL."""
    base_model: str = str(EMBEDDED_BASE_MODEL)
    """Local Hugging Face directory or hub name of the model to teach; the default is the embedded one."""
    language: Literal["", "zh", "en"] = ""
    """Language of console and reports; empty asks the browser."""
    reconcile_seconds: float = 30.0
    """Time between two looks at Label Studio when no webhook arrives."""
    rankings_per_task: int = 1
    """People who rank each task."""
    repeated_tasks: float = 0.0
    """Share of the ranking tasks that are served twice, to measure how far people agree with themselves."""
    reviews_per_comparison: int = 1
    """People who judge each before/after pair."""
    candidates_per_prompt: int = 3
    """Answers to rank for each prompt, 2 to 4."""
    max_similarity: float = 0.85
    """Candidates of a prompt more alike than this (0 to 1) are drawn again, hotter and in another style."""
    train_after_rankings: int = 50
    """New rankings after which the reward model trains by itself; 0 means only when asked."""
    ranking_decay: float = 0.8
    """Weight of a ranking in training for each round that it is older than the newest; 1 counts all alike."""
    gate_accuracy: float = 0.85
    """Held-out accuracy over pairs that the reward model must reach before PPO starts."""
    auto_ppo: bool = True
    """Start PPO by itself when the gate passes."""
    auto_promote: Literal["never", "better"] = "never"
    """Promote a model by itself: never, or when its verdict is better."""
    review_seen: int = 15
    """Prompts of the review that PPO trained on."""
    review_unseen: int = 25
    """Prompts of the review that nothing was trained on."""
    ppo_updates: int = 40
    """Most PPO updates; convergence or a guard usually stops earlier."""
    clip_range: float = 0.2
    """PPO's clip of the probability ratio; 0.15 where the style is unstable."""
    kl_coef: float = 0.5
    """Weight of PPO's penalty for leaving the reference model."""
    ppo_learning_rate: float = 0.0
    """PPO's step size; 0 chooses it by the model's size."""
    missing_eos_penalty: float = 1.0
    """PPO's penalty for an answer that does not end by itself, in deviations of the score."""
    max_response_tokens: int = 128
    """Longest answer that is generated."""
    seed: int = 0
    """Seed of every random choice in training."""
    training_cooldown_s: float = 10.0
    """Least time between two starts by Start Training."""

    def __post_init__(self) -> None:
        if faults := self._faults():
            raise SettingsError(faults)

    @classmethod
    def from_environment(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read the environment; without `env`, the process's own and `var/settings.env` (or `SETTINGS_FILE`).

        Raises: SettingsError: with every fault, each naming its variable.
        """
        if env is None:
            env = {**read_settings_file(Path(os.environ.get("SETTINGS_FILE", SETTINGS_FILE))), **os.environ}
        values: dict[str, Any] = {}
        faults = []
        for setting in documented():
            if text := env.get(setting.variable, "").strip():
                try:
                    values[setting.name] = _parse(text, setting.type)
                except ValueError:
                    shown = "what was given" if setting.secret else f"`{text}`"
                    faults.append(f"`{setting.variable}` is {shown}; needed is {_kind(setting.type)}")
        if not values.get("label_studio_api_key"):
            faults.append(
                "`LABEL_STUDIO_API_KEY` is empty; needed is a Label Studio access token"
                " (Label Studio → Account & Settings → Access Token)"
            )
        faults += _model_faults(values.get("base_model", ""))
        try:
            settings = cls(**values)
        except SettingsError as error:
            raise SettingsError(faults + error.faults) from error
        if faults:
            raise SettingsError(faults)
        return settings

    @property
    def store_url(self) -> str:
        """The SQLAlchemy URL in effect."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'backend.sqlite3').absolute()}"

    @property
    def runs_dir(self) -> Path:
        return self.data_dir / "runs"

    @property
    def models_dir(self) -> Path:
        return self.data_dir / "models"

    @property
    def is_local(self) -> bool:
        """True if only this machine can reach the backend."""
        return _is_loopback(self.host)

    @property
    def hosts(self) -> frozenset[str]:
        """Host names that a request may carry."""
        local = {"localhost", "127.0.0.1", "::1"}
        return frozenset({urlsplit(self.backend_url).hostname or "", *local, *self.allowed_hosts} - {""})

    def _faults(self) -> list[str]:
        return [*self._url_faults(), *self._secret_faults(), *self._range_faults()]

    def _url_faults(self) -> list[str]:
        faults = []
        for name in ("label_studio_url", "label_studio_public_url", "backend_url"):
            if name == "label_studio_public_url" and not self.label_studio_public_url:
                continue
            url = urlsplit(getattr(self, name))
            if url.scheme not in ("http", "https") or not url.hostname:
                faults.append(
                    f"`{variable(name)}` is `{getattr(self, name)}`; needed is http://HOST or https://HOST"
                )
            elif url.username or url.password:
                faults.append(f"`{variable(name)}` holds a password; give it without")
        host = urlsplit(self.backend_url).hostname or "."
        if not ("." in host or ":" in host or host == "localhost"):
            faults.append(
                f"`BACKEND_URL` has the host `{host}`, for which Label Studio refuses webhooks;"
                " needed is a host with a dot (in compose: a dotted network alias)"
            )
        return faults

    def _secret_faults(self) -> list[str]:
        if self.is_local:
            return []
        return [
            f"`{variable(name)}` has {len(getattr(self, name))} characters; as `BACKEND_HOST` can be reached"
            f" from elsewhere it needs {_SECRET_LENGTH} or more (`openssl rand -hex 24` makes one)"
            for name in ("password", "webhook_secret", "session_secret")
            if len(getattr(self, name)) < _SECRET_LENGTH
        ]

    def _range_faults(self) -> list[str]:
        ranges: dict[str, tuple[float, float]] = {
            "port": (0, 65535),
            "label_studio_timeout_s": (0.1, 3600),
            "reconcile_seconds": (0.05, 86400),
            "rankings_per_task": (1, 100),
            "repeated_tasks": (0, 1),
            "reviews_per_comparison": (1, 100),
            "candidates_per_prompt": (2, 4),
            "train_after_rankings": (0, 10**6),
            "ranking_decay": (0.1, 1),
            "gate_accuracy": (0.5, 1),
            "review_seen": (1, 1000),
            "review_unseen": (1, 1000),
            "ppo_updates": (1, 10**5),
            "clip_range": (0.01, 1),
            "kl_coef": (0, 100),
            "ppo_learning_rate": (0, 1),
            "missing_eos_penalty": (0, 100),
            "max_similarity": (0.01, 1),
            "max_response_tokens": (1, 32768),
            "training_cooldown_s": (0, 86400),
            "seed": (0, 2**32 - 1),
        }
        choices = {"language": ("", "zh", "en"), "auto_promote": ("never", "better")}
        return [
            f"`{variable(name)}` is `{getattr(self, name)}`; needed is {low:g} to {high:g}"
            for name, (low, high) in ranges.items()
            if not low <= getattr(self, name) <= high
        ] + [
            f"`{variable(name)}` is `{getattr(self, name)}`; needed is one of {allowed}"
            for name, allowed in choices.items()
            if getattr(self, name) not in allowed
        ]


@dataclass(frozen=True)
class Documented:
    """One setting as the documentation shows it."""

    name: str
    variable: str
    type: Any
    default: str
    doc: str
    secret: bool


def documented() -> list[Documented]:
    """Every setting, in order, with the doc line below its field."""
    types = typing.get_type_hints(Settings)
    docs = _field_docs()
    return [
        Documented(
            name=f.name,
            variable=variable(f.name),
            type=types[f.name],
            default=_shown_default(f.name, f.default),
            doc=docs[f.name],
            secret=not f.repr,
        )
        for f in fields(Settings)
    ]


def variable(name: str) -> str:
    """The environment variable of a field."""
    return _VARIABLES.get(name, name.upper())


def read_settings_file(path: Path) -> dict[str, str]:
    """`NAME=value` lines; empty if there is no file.

    Raises: SettingsError: the file cannot be read, or a line is no `NAME=value`.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            [f"`{path}` cannot be read: {type(error).__name__}; make it readable UTF-8"]
        ) from error
    values = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals:
            raise SettingsError([f"`{path}` line {number} has no `=`; needed is NAME=value"])
        values[name.strip()] = value.strip()
    return values


def _model_faults(base_model: str) -> list[str]:
    """A path that is none would only be found out with the first prompts; a hub name may be right."""
    if not base_model.startswith(("/", "./", "../", "~")) or (Path(base_model) / "config.json").is_file():
        return []
    return [
        f"`BASE_MODEL` is `{base_model}`, which holds no `config.json`; needed is a directory in Hugging Face"
        " layout or a hub name"
    ]


def _field_docs() -> dict[str, str]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(Settings))).body
    docs = {}
    for first, second in itertools.pairwise(cast(ast.ClassDef, tree).body):
        match first, second:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                docs[name] = inspect.cleandoc(doc)
    return docs


def _shown_default(name: str, default: Any) -> str:
    if default is MISSING or default in ("", ()):
        return ""
    if name == "base_model":
        return "the embedded model"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _parse(text: str, kind: Any) -> Any:
    if kind is bool:
        lowered = text.lower()
        if lowered not in ("true", "false", "1", "0", "yes", "no"):
            raise ValueError(text)
        return lowered in ("true", "1", "yes")
    if get_origin(kind) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise ValueError(text)
        return text
    return kind(text)


def _kind(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false"}
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f"`{choice}`" for choice in get_args(kind) if choice)
    return names.get(kind, "text")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
