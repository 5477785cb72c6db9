"""The address of a scorer, which stands in the run's files and the model's lineage: it must hold no secret.

Standard library only, so that a configuration can check it when it is read. No message holds any of the
address. Used by `trainers.config`, `trainers.reward_http` and `trainers.reward_source`.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from trainers.errors import ConfigError

_NEEDED = "needed is `http://HOST:PORT/PATH` or `https://...`"


def is_url(reward_model: str) -> bool:
    """True where an address is meant, be it one that cannot be used: no directory and no function."""
    return "://" in reward_model or re.match(r"\s*https?:/", reward_model, re.IGNORECASE) is not None


def require_address(url: str) -> None:
    """Raises: ConfigError: this is no address that can be used, or it may hold a password or a key."""
    if not url.isprintable() or re.search(r"[\s\\]", url):
        raise ConfigError(
            f"`reward_model` is an address with a space, a backslash or a control character; {_NEEDED}, "
            "without any before, in or after it"
        )
    if re.search("[@?#]", url):  # wherever it stands: a password may hold any of the others
        raise ConfigError(
            "`reward_model` is an address with `@`, `?` or `#`: a password, a query or a fragment would be "
            f"written into the run's files and the model's lineage; {_NEEDED}, e.g. of a local proxy that "
            "adds what the scorer asks for"
        )
    if not re.match("https?://", url, re.IGNORECASE):
        raise ConfigError(f"`reward_model` is an address of another kind; {_NEEDED}")
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port  # the port is read, and refused, only here
    except ValueError:
        raise ConfigError(
            f"`reward_model` is no address that can be used: its host or port cannot be read; {_NEEDED}"
        ) from None
    if not host:
        raise ConfigError(f"`reward_model` is an address that names no host; {_NEEDED}")
