"""Importing a file of prompts into a workspace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import label_config
from backend.errors import PromptFileError, UnreachableError
from backend.label_studio import LabelStudioClient
from scripts.import_prompts import Imported, import_prompts, main
from scripts.prompt_file import MOST_PROMPTS, read_prompt_file
from tests.fake_label_studio import TOKEN, FakeLabelStudio


class Project:
    """A prompts project on a fake Label Studio."""

    def __init__(self) -> None:
        self.fake = FakeLabelStudio()
        self.client = LabelStudioClient(self.fake.url, TOKEN, transport=self.fake.transport(), backoff_s=0)
        xml = label_config.read("prompts")
        self.id = int(self.client.create_project(title="prompts", label_config=xml)["id"])

    def texts(self) -> list[str]:
        return [task["data"]["prompt"] for task in self.client.tasks(self.id)]


@pytest.fixture
def project() -> Project:
    return Project()


def file(directory: Path, content: bytes | str, name: str = "p.csv") -> Path:
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_new_prompts_go_in_and_the_rest_is_counted(tmp_path: Path, project: Project) -> None:
    project.fake.add_task(project.id, {"prompt": "old "})
    path = file(tmp_path, 'prompt\n你好\n""\n你好 \nold\nHow?\n')
    done = import_prompts(path, project.id, project.client)
    assert done == Imported(project.id, imported=2, present=1, empty=1, duplicates=1)
    assert project.texts() == ["old ", "你好", "How?"]
    assert done.describe() == "2 prompts; left out: 1 already there, 1 empty, 1 duplicate"


def test_repeated_import_adds_nothing(tmp_path: Path, project: Project) -> None:
    path = file(tmp_path, "a\nb\n", "p.txt")
    import_prompts(path, project.id, project.client)
    assert import_prompts(path, project.id, project.client).imported == 0
    assert project.texts() == ["a", "b"]


def test_import_that_was_cut_off_goes_on(
    tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.import_prompts.BATCH", 2)
    path = file(tmp_path, "a\nb\nc\nd\ne\n", "p.txt")
    send = project.client.import_tasks

    def fail_at_second(number: int, tasks: list[dict[str, str]]) -> list[int]:
        if project.texts():
            raise UnreachableError("gone")
        return send(number, tasks)

    monkeypatch.setattr(project.client, "import_tasks", fail_at_second)
    with pytest.raises(UnreachableError):
        import_prompts(path, project.id, project.client)
    monkeypatch.setattr(project.client, "import_tasks", send)
    assert import_prompts(path, project.id, project.client).imported == 3
    assert project.texts() == ["a", "b", "c", "d", "e"]


def test_unusable_file_imports_nothing(tmp_path: Path, project: Project) -> None:
    with pytest.raises(PromptFileError, match="title"):
        import_prompts(file(tmp_path, "title\nx\n"), project.id, project.client)
    assert project.texts() == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_encoding_is_found(tmp_path: Path, encoding: str) -> None:
    read = read_prompt_file(file(tmp_path, "prompt\n今天天气怎么样？\n".encode(encoding)))
    assert [prompt.text for prompt in read.prompts] == ["今天天气怎么样？"]
    assert read.encoding.startswith(encoding[:5])


def test_wrong_encoding_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match="line 3 is neither"):
        read_prompt_file(file(tmp_path, b"prompt\nfine\ncaf\xe9 \xff\nx\n"))


def test_prompt_of_several_lines_keeps_them(tmp_path: Path) -> None:
    [prompt] = read_prompt_file(file(tmp_path, 'prompt\n"a\n  b"\n')).prompts
    assert prompt.text == "a\n  b"


def test_conversation_goes_in_whole_and_once(tmp_path: Path, project: Project) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    entry = {"prompt": "And then?", "system": "Be brief.", "history": turns}
    path = file(tmp_path, json.dumps([entry, {"prompt": "And then?"}]), "p.json")
    assert import_prompts(path, project.id, project.client).imported == 2
    assert import_prompts(path, project.id, project.client).present == 2
    assert [task["data"] for task in project.client.tasks(project.id)] == [entry, {"prompt": "And then?"}]


def test_hundred_thousand_rows_are_refused_quickly(tmp_path: Path) -> None:
    path = file(tmp_path, "prompt\n" + "\n".join(f"prompt {n}" for n in range(100_000)))
    with pytest.raises(PromptFileError, match=f"100000 prompts; a workspace takes at most {MOST_PROMPTS}"):
        read_prompt_file(path)


def test_unknown_workspace_is_one_line_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("SETTINGS_FILE", str(tmp_path / "none"))
    assert main([str(file(tmp_path, "a", "p.txt")), "--workspace", "nobody"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("not imported: there is no workspace `nobody`")
    assert said.count("\n") == 1
