"""One real Label Studio for all tests marked `integration` or `e2e`; a GPU for those of `gpu/` alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.label_studio_server import VIRTUAL_ENVIRONMENT, LabelStudioServer, free_port

collect_ignore = []
if not os.environ.get("TEST_ON_GPU"):
    collect_ignore.append("gpu")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what is expected to the last digit is computed in fp32 on a CPU
USERNAME = "lead@example.com"
PASSWORD = "a-long-test-password"
TOKEN = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioServer]:
    """A Label Studio of its own data directory; its administrator's token is `label_studio.token`."""
    if not VIRTUAL_ENVIRONMENT.exists():
        pytest.skip("Label Studio is not installed; `make setup` installs it")
    directory: Path = tmp_path_factory.mktemp("label-studio")
    server = LabelStudioServer(
        directory / "data", free_port(), USERNAME, PASSWORD, TOKEN, directory / "label-studio.log"
    )
    server.start()
    try:
        server.wait_ready(300)
        yield server
    finally:
        server.stop()
