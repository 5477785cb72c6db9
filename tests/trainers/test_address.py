from __future__ import annotations

import subprocess
import sys

import pytest

from trainers.address import is_url, require_address
from trainers.errors import ConfigError


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:8080/score", "HTTPS://Scorer.example/v1/score%40", "http://[::1]:80/", "http://é.eu"],
)
def test_an_address_without_a_secret_is_taken(url: str) -> None:
    assert is_url(url)
    require_address(url)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("HTTP://user:SECRET@host/", "password"),
        ("https://:SECRET@/x", "password"),
        ("http://user:1/SECRET@host", "password"),
        ("http://host/?key=SECRET", "password"),
        ("http://host/#SECRET", "fragment"),
        (" http://user:SECRET@host/", "a space"),
        ("http://user:SECRET@host/ ", "a space"),
        ("http://ho\tst/SECRET", "control character"),
        ("http://SECRET\\host/", "backslash"),
        ("http:/user:SECRET@host", "password"),
        ("ftp://SECRET/x", "another kind"),
        ("https:/SECRET", "another kind"),
        ("http://host:SECRET/", "host or port"),
        ("http://host:65536/SECRET", "host or port"),
        ("http://[SECRET/", "host or port"),
        ("http://:80/SECRET", "names no host"),
        ("http:///SECRET", "names no host"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_being_repeated(url: str, fault: str) -> None:
    assert is_url(url)
    with pytest.raises(ConfigError, match=fault) as caught:
        require_address(url)
    assert "SECRET" not in str(caught.value)
    assert "needed is" in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "name", ["", "runs/reward/model", "C:/models", "https", "http:function", "a.b:function"]
)
def test_a_directory_or_a_function_is_no_address(name: str) -> None:
    assert not is_url(name)


def test_a_configuration_can_be_checked_without_the_http_library() -> None:
    check = "import sys, trainers.address; sys.exit('httpx' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
