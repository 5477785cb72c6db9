"""The labeling interfaces, and the judgement of changed ones."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

import label_config


@pytest.mark.parametrize("name", label_config.NAMES)
def test_our_own_interface_has_no_fault(name: label_config.Name) -> None:
    assert label_config.check(name, label_config.read(name)) == []


@pytest.mark.parametrize("name", label_config.NAMES)
def test_shared_style_is_inside_and_no_placeholder_is_left(name: label_config.Name) -> None:
    style = ET.fromstring(label_config.read(name)).findtext("Style")  # noqa: S314 - our own file
    assert style is not None
    assert ".rlhf-prompt" in style
    assert "/*" not in style


@pytest.mark.parametrize("name", ["ranking", "review", "prompts"])
def test_instructions_are_in_both_languages(name: label_config.Name) -> None:
    root = ET.fromstring(label_config.read(name))  # noqa: S314 - our own file
    words = " ".join(tag.get("value", "") for tag in root.iter("Header"))
    assert any("\u4e00" <= letter <= "\u9fff" for letter in words)
    assert any("a" <= letter <= "z" for letter in words)


def test_raw_answer_id_is_hidden_from_the_annotator() -> None:
    assert ".htx-ranker-item p:last-child { display: none; }" in label_config.read("ranking")


def test_model_text_is_never_shown_as_html() -> None:
    for name in ("prompts", "ranking", "review"):
        assert "HyperText" not in label_config.read(name)


def test_reworded_interface_with_another_control_is_fine() -> None:
    changed = label_config.read("ranking").replace("问题 · Question", "Frage")
    changed = changed.replace("</View>\n</View>", '</View><TextArea name="why" toName="prompt"/></View>')
    assert changed != label_config.read("ranking")
    assert label_config.check("ranking", changed) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "fault"),
    [
        ("ranking", 'name="ranking"', 'name="rank"', 'Ranker name="ranking"'),
        ("ranking", 'value="$answers"', 'value="$items"', 'value="$items"'),
        ("ranking", 'alias="tie"', 'alias="same"', "tie"),
        ("ranking", '<Text name="prompt" value="$prompt"/>', "", 'Text name="prompt"'),
        ("ranking", 'toName="answers"/>', 'toName="answers"><Bucket name="good"/></Ranker>', "buckets"),
        ("review", 'alias="left"', 'alias="links"', "left"),
        ("review", '<Text name="left" value="$left"/>', "", 'Text name="left"'),
        ("prompts", 'value="$prompt"', 'value="$question"', "$question"),
        ("prompts", "</View>\n</View>", '</View><Text name="x" value="$image"/></View>', "`$image` is shown"),
        ("review", "<View", "<Vieww", "no XML"),
    ],
)
def test_incompatible_change_is_named(name: label_config.Name, old: str, new: str, fault: str) -> None:
    changed = label_config.read(name).replace(old, new, 1)
    assert changed != label_config.read(name)
    assert fault in "; ".join(label_config.check(name, changed))


def test_entity_bomb_is_not_parsed() -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><View>&b;</View>'
    assert "entities" in label_config.check("prompts", bomb)[0]
