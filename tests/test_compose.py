"""docker-compose.yml and Dockerfile hold what they promise; checked without a container engine."""

from __future__ import annotations

import ipaddress
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from backend.settings import documented
from scripts.credentials import compose_environment

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = ROOT / "docker-compose.yml"
TEXT = COMPOSE.read_text(encoding="utf-8")
PROJECT: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = PROJECT["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
OUR_IMAGES = {name: service for name, service in SERVICES.items() if "build" in service}

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)


def names(value: Any) -> set[str]:
    """The names in a list or a mapping of compose's short or long form."""
    return set(value or ())


def test_file_fits_the_compose_schema() -> None:
    command = [Path(sys.executable).parent / "check-jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, COMPOSE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_dockerfile_passes_hadolint() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "hadolint", "--no-color", ROOT / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


@each_service
def test_networks_are_defined(service: dict[str, Any]) -> None:
    assert names(service["networks"]) <= names(PROJECT["networks"])


@each_service
def test_named_volumes_are_defined(service: dict[str, Any]) -> None:
    assert {volume.split(":")[0] for volume in service["volumes"]} <= names(PROJECT["volumes"])


@each_service
def test_what_is_depended_on_exists_and_says_when_it_is_healthy(service: dict[str, Any]) -> None:
    for name, condition in service.get("depends_on", {}).items():
        assert condition == {"condition": "service_healthy"}
        assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


@each_service
def test_service_is_hardened(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["user"].split(":")[0]) > 0
    assert service["tmpfs"]


@each_service
def test_image_has_a_pinned_version(service: dict[str, Any]) -> None:
    assert re.search(r":\d+\.\d+", service["image"])


@each_service
def test_ports_are_open_on_this_machine_only(service: dict[str, Any]) -> None:
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_every_required_variable_is_drawn_by_the_generator() -> None:
    required = set(re.findall(r"\$\{(\w+):\?", TEXT))
    assert required
    assert required <= compose_environment().keys()


def test_no_secret_has_a_default() -> None:
    secret = {setting.variable for setting in documented() if setting.secret} - {"DATABASE_URL"}
    optional = set(re.findall(r"\$\{(\w+):-", TEXT))
    assert not {name for name in optional if name in secret or "PASSWORD" in name or "TOKEN" in name}


@pytest.mark.parametrize("name", ["backend", "backend-gpu"])
def test_backend_is_given_real_settings_only(name: str) -> None:
    known = {setting.variable for setting in documented()}
    assert SERVICES[name]["environment"].keys() <= known


@pytest.mark.parametrize("name", ["backend", "backend-gpu"])
def test_addresses_are_dotted_aliases_on_a_shared_network(name: str) -> None:
    """Label Studio refuses webhooks to a host without a dot."""
    environment = SERVICES[name]["environment"]
    for variable, owner in (("BACKEND_URL", name), ("LABEL_STUDIO_URL", "label-studio")):
        host = re.fullmatch(r"http://([\w.-]+):\d+", environment[variable])
        assert host
        assert "." in host[1]
        assert SERVICES[owner]["networks"]["inside"]["aliases"] == [host[1]]


def test_label_studio_may_not_call_the_cloud_metadata_address_but_the_backend() -> None:
    banned = SERVICES["label-studio"]["environment"]["USER_ADDITIONAL_BANNED_SUBNETS"].split(",")
    networks = [ipaddress.ip_network(text) for text in banned]
    inside = ipaddress.ip_network(PROJECT["networks"]["inside"]["ipam"]["config"][0]["subnet"])
    assert any(ipaddress.ip_address("169.254.169.254") in n for n in networks)
    assert not any(n.version == 4 and inside.overlaps(n) for n in networks)


def test_services_that_share_a_volume_never_run_together() -> None:
    """Two processes on one SQLite file are unsafe."""
    owners: dict[str, list[dict[str, Any]]] = {}
    for service in SERVICES.values():
        for volume in service["volumes"]:
            owners.setdefault(volume.split(":")[0], []).append(service)
    for sharing in (services for services in owners.values() if len(services) > 1):
        profiles = [tuple(service.get("profiles", ())) for service in sharing]
        assert all(len(profile) == 1 for profile in profiles)
        assert len(set(profiles)) == len(profiles)


def test_generator_chooses_a_profile_that_exists() -> None:
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", ())}
    assert compose_environment()["COMPOSE_PROFILES"] in profiles
    assert profiles == {"cpu", "gpu"}


def test_training_has_time_to_save_before_it_is_killed() -> None:
    assert SERVICES["backend"]["stop_grace_period"] == "2m"


@pytest.mark.parametrize("service", OUR_IMAGES.values(), ids=OUR_IMAGES)
def test_built_image_names_a_stage_of_the_dockerfile(service: dict[str, Any]) -> None:
    assert f" AS {service['build']['target']}\n" in DOCKERFILE


def test_label_studio_image_has_the_version_that_is_tested() -> None:
    locked = re.search(r"^label-studio==(.+)$", (ROOT / "requirements/label-studio.txt").read_text(), re.M)
    assert locked
    assert SERVICES["label-studio"]["image"].endswith(f":{locked[1]}")


def test_everything_that_is_copied_exists_and_is_not_ignored() -> None:
    allowed = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.M)
    for sources in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M):
        for source in sources.split():
            assert (ROOT / source).exists()
            assert any(Path(source).match(pattern) for pattern in allowed)
