"""The documentation is true: its commands exist, its settings are all settings, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from backend.settings import documented
from scripts import advice_pages
from scripts.settings_page import PAGE, with_table

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "README.zh-CN.md",
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("docs/**/*.md")),
]
TRANSLATED = [
    ("README.md", "README.zh-CN.md"),
    ("docs/guide.md", "docs/guide.zh-CN.md"),
    ("docs/trainers.md", "docs/trainers.zh-CN.md"),
    ("docs/advice.md", "docs/advice.zh-CN.md"),
]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
OF_SET_UP = {"TORCH_INDEX", "SETTINGS_FILE", "PYTHON"}
"""Variables that set-up and start read, beside the settings."""


def commands() -> list[tuple[str, list[str]]]:
    """(page, words) of every line of a shell block."""
    found = []
    for name, text in TEXTS.items():
        for block in re.findall(r"```bash\n(.*?)```", text, re.S):
            for line in block.splitlines():
                if words := shlex.split(line, comments=True):
                    found.append((name, words))
    return found


def of_program(program: str) -> list[tuple[str, list[str]]]:
    """The commands of a program, without the settings before it and its own name."""
    found = []
    for name, words in commands():
        rest = [word for word in words if not re.match(r"[A-Z_]+=", word)] if words[0] != "make" else words
        if Path(rest[0]).name == program:
            found.append((name, rest[1:]))
    return found


@cache
def options_of(module: str, *subcommands: str) -> str:
    """What `--help` of a program says."""
    done = subprocess.run(
        [sys.executable, "-m", module, *subcommands, "--help"], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_shell_blocks_use_known_programs_only() -> None:
    programs = {Path(next(w for w in words if not re.match(r"[A-Z_]+=", w))).name for _, words in commands()}
    assert programs <= {"make", "python", "python3", "docker"}


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    used = {words[0] for _, words in of_program("make")}
    assert used
    assert used <= targets


def test_make_lists_every_target_with_a_word_about_it() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.+)$", makefile, re.M)[1].split())  # type: ignore[index]
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert phony == set(re.findall(r"^  make ([a-z-]+)", listed, re.M))


def test_options_of_the_demo_exist() -> None:
    known = options_of("scripts.demo")
    used = {option for text in TEXTS.values() for option in re.findall(r"^\| `(--[a-z-]+)", text, re.M)}
    used |= {
        word
        for _, words in of_program("make")
        for argument in words
        if argument.startswith("ARGS=")
        for word in argument.split()
        if word.startswith("--")
    }
    assert used
    assert not {option for option in used if option not in known}


@pytest.mark.parametrize("words", [w for p in ("python", "python3") for _, w in of_program(p)], ids=" ".join)
def test_python_commands_are_understood(words: list[str]) -> None:
    assert words[0] == "-m"
    module, *rest = words[1:]
    subcommands = []
    for word in rest:
        if word.startswith("-") or not re.fullmatch(r"[a-z]+", word):
            break
        subcommands.append(word)
    if module.startswith("scripts."):
        subcommands = []
    help_text = options_of(module, *subcommands)
    assert all(word in help_text for word in rest if word.startswith("--"))


@pytest.mark.parametrize("words", [w for _, w in of_program("docker")], ids=" ".join)
def test_docker_commands_name_what_exists(words: list[str]) -> None:
    assert words[0] == "compose"
    if "-m" in words:
        module = words[words.index("-m") + 1]
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").exists()


def test_settings_page_shows_every_setting_as_it_is() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_table(page), "run `python -m scripts.settings_page`"


@pytest.mark.parametrize("language", advice_pages.PAGES)
def test_advice_pages_show_every_rule_as_it_is(language: advice_pages.Language) -> None:
    page = advice_pages.PAGES[language].read_text(encoding="utf-8")
    assert page == advice_pages.with_table(page, language), "run `python -m scripts.advice_pages`"


@pytest.mark.parametrize("name", TEXTS)
def test_every_variable_that_is_named_exists(name: str) -> None:
    known = {setting.variable for setting in documented()} | OF_SET_UP | {"COMPOSE_PROFILES"}
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)(?:=[^`]*)?`", TEXTS[name]))
    named |= set(re.findall(r"^([A-Z]+(?:_[A-Z]+)+)=", TEXTS[name], re.M))
    assert named <= known


def anchors(text: str) -> set[str]:
    """The anchors that headings get."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", TEXTS)
def test_links_resolve(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[name]):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target


@pytest.mark.parametrize(("english", "chinese"), TRANSLATED)
def test_translations_have_the_same_sections_and_commands(english: str, chinese: str) -> None:
    def shape(name: str) -> tuple[int, list[list[str]], int]:
        text = TEXTS[name]
        return (
            len(re.findall(r"^#+ ", text, re.M)),
            [words for page, words in commands() if page == name],
            len(re.findall(r"^\|", text, re.M)),
        )

    assert shape(english) == shape(chinese)
