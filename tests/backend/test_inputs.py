"""What a stage is given, and that the same question gives the same run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from backend import registry, store
from backend.errors import ConflictError, RegistryError
from backend.inputs import (
    candidates_records,
    collecting_round,
    queue_compare,
    queue_generate,
    queue_ppo,
    queue_reward,
    requeue,
    settings_of,
    try_again,
)
from backend.settings import Settings
from backend.store import Store
from backend.tables import ModelRow, PromptRow, RankingRow, ResponseRow, RunRow, WorkspaceRow
from trainers.config import CompareConfig, GenerationConfig, PPOConfig, RewardConfig
from trainers.manifest import MANIFEST, sha256_of
from trainers.preferences import derive_preferences
from trainers.records import Candidates, Prompt, Ranking, read_jsonl
from trainers.run_dir import RunDir

SPLITS = ("train",) * 6 + ("verification",) * 2 + ("unseen",) * 4


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, base_model="base", review_seen=4, review_unseen=10)


@pytest.fixture
def opened(settings: Settings) -> Store:
    opened = Store(settings.store_url)
    opened.create_all()
    with opened.session() as session:
        session.add(
            WorkspaceRow(id="team", title="Team", prompts_project=1, ranking_project=2, review_project=3)
        )
        for n, split in enumerate(SPLITS):
            session.add(
                PromptRow(workspace="team", prompt_id=f"p{n}", text=f"q{n}", split=split, state="published")
            )
            for letter in "ab":
                session.add(
                    ResponseRow(
                        id=f"{letter}{n}", workspace="team", prompt_id=f"p{n}", text="x", policy="base"
                    )
                )
    return opened


def rank(opened: Store, number: int, first: int = 0) -> None:
    with opened.session() as session:
        for n in range(first, first + number):
            session.add(
                RankingRow(
                    annotation_id=n + 1, workspace="team", task=n, prompt_id=f"p{n}", annotator=7,
                    state="active", updated_at="t", result_hash=f"h{n}", order=[[f"a{n}"], [f"b{n}"]],
                )
            )  # fmt: skip


def add_model(opened: Store, settings: Settings, kind: str, number: int = 1) -> str:
    model_id = f"{kind}-team-{number}"
    path = settings.models_dir / model_id
    path.mkdir(parents=True)
    (path / MANIFEST).write_text(json.dumps({"files": {}, "lineage": {}}))
    with opened.session() as session:
        session.add(
            ModelRow(
                id=model_id, workspace="team", kind=kind, run_id=model_id, path=str(path), round_id="team-r1",
                manifest_sha256=sha256_of(path / MANIFEST),
            )
        )  # fmt: skip
    return model_id


def run_dir(settings: Settings, run: RunRow) -> RunDir:
    return RunDir(settings.runs_dir / run.id)


def test_reward_run_is_given_all_answers_and_exactly_the_active_rankings(
    opened: Store, settings: Settings
) -> None:
    rank(opened, 5)
    with opened.session() as session:
        session.get_one(RankingRow, 5).state = "superseded"
        session.flush()
        queued = queue_reward(session, settings, "team", asked=False)
        assert queued.new and queued.round.state == "rewarding"
        assert queued.run.snapshot == [[n + 1, f"h{n}"] for n in range(4)]
    directory = run_dir(settings, queued.run)
    rankings = read_jsonl(directory.input("rankings.jsonl"), Ranking)
    assert (rankings[0].id, rankings[0].annotator, rankings[0].order) == ("1", "7", (("a0",), ("b0",)))
    assert len(rankings) == 4
    candidates = read_jsonl(directory.input("candidates.jsonl"), Candidates)
    assert [c.prompt.split for c in candidates] == list(SPLITS)
    assert RewardConfig.read(directory.config_path).gate_accuracy == settings.gate_accuracy


def test_people_whose_accounts_are_gone_are_not_one_person(opened: Store, settings: Settings) -> None:
    rank(opened, 2)
    with opened.session() as session:
        for number in (1, 2):
            row = session.get_one(RankingRow, number)
            row.prompt_id, row.order, row.annotator = "p0", [["a0"], ["b0"]], 0
        session.flush()
        run = queue_reward(session, settings, "team", asked=False).run
        candidates = candidates_records(session, "team")
    rankings = read_jsonl(run_dir(settings, run).input("rankings.jsonl"), Ranking)
    (preference,) = derive_preferences(rankings, candidates)
    assert (preference.chosen_id, preference.votes) == ("a0", 2)


def test_same_rankings_give_the_same_run_and_a_new_one_another(opened: Store, settings: Settings) -> None:
    rank(opened, 4)
    with opened.session() as session:
        first = queue_reward(session, settings, "team", asked=True)
        again = queue_reward(session, settings, "team", asked=True)
        assert (again.run.id, again.new) == (first.run.id, False)
        first.round.state = "gated"
    rank(opened, 1, first=4)
    with opened.session() as session:
        other = queue_reward(session, settings, "team", asked=False)
        assert other.new and other.run.id != first.run.id and other.round.id == first.round.id


def test_what_was_added_can_be_taken_away_again(opened: Store, settings: Settings) -> None:
    rank(opened, 4)
    with opened.session() as session:
        first = queue_reward(session, settings, "team", asked=True)
        first.round.state = "decided"
    rank(opened, 2, first=4)
    with opened.session() as session:
        second = queue_reward(session, settings, "team", asked=True)
        second.round.state = "decided"
        for annotation in (5, 6):
            session.get_one(RankingRow, annotation).state = "deleted"
        session.flush()
        third = queue_reward(session, settings, "team", asked=True)
        assert third.new and third.run.snapshot == first.run.snapshot and third.round.number == 3
        assert queue_reward(session, settings, "team", asked=True).run is third.run


def test_same_rankings_are_trained_on_again_after_another_policy_was_promoted(
    opened: Store, settings: Settings
) -> None:
    rank(opened, 4)
    policy = add_model(opened, settings, "policy")
    with opened.session() as session:
        first = queue_reward(session, settings, "team", asked=True)
        first.round.state = "decided"
        registry.promote(session, "team", policy, "")
        session.flush()
        assert queue_reward(session, settings, "team", asked=True).new


def test_ranking_belongs_to_the_round_that_first_learned_from_it(opened: Store, settings: Settings) -> None:
    def rounds_of(run: RunRow) -> list[int]:
        rankings = read_jsonl(run_dir(settings, run).input("rankings.jsonl"), Ranking)
        return [ranking.round for ranking in rankings]

    settings = replace(settings, ranking_decay=0.5)
    rank(opened, 3)
    with opened.session() as session:
        queued = queue_reward(session, settings, "team", asked=False)
        assert RewardConfig.read(run_dir(settings, queued.run).config_path).ranking_decay == 0.5
        queued.round.state = "gated"
    rank(opened, 1, first=3)
    with opened.session() as session:
        queued = queue_reward(session, settings, "team", asked=False)
        assert rounds_of(queued.run) == [1, 1, 1, 1]  # a gate that held begins no round
        queued.round.state = "decided"
    rank(opened, 2, first=4)
    with opened.session() as session:
        session.get_one(RankingRow, 1).result_hash = "edited"
        session.flush()
        queued = queue_reward(session, settings, "team", asked=False)
        assert rounds_of(queued.run) == [2, 1, 1, 1, 2, 2]


def add_prompts(opened: Store, *prompt_ids: str) -> None:
    with opened.session() as session:
        for prompt_id in prompt_ids:
            session.add(PromptRow(workspace="team", prompt_id=prompt_id, text=prompt_id, split="train"))


def generate(opened: Store, settings: Settings, state: str) -> str:
    """A generate run of what waits for candidates, that has ended so."""
    with opened.session() as session:
        queued = queue_generate(session, settings, "team")
        assert queued is not None and queued.new
        queued.run.state = state
    return queued.run.id


def prompts_given(settings: Settings, run: RunRow) -> list[str]:
    return [prompt.id for prompt in read_jsonl(run_dir(settings, run).input("prompts.jsonl"), Prompt)]


def test_failed_generation_goes_on_where_it_was(opened: Store, settings: Settings) -> None:
    add_prompts(opened, "n1", "n2")
    failed = generate(opened, settings, "failed")
    with opened.session() as session:
        run = store.run(session, failed)
        try_again(session, settings, run)
        assert run.state == "queued" and len(store.runs(session, "team")) == 1
        with pytest.raises(ConflictError, match="it is queued"):
            try_again(session, settings, run)


def test_failed_generation_begins_anew_with_another_base_model(opened: Store, settings: Settings) -> None:
    add_prompts(opened, "n1", "n2")
    failed = generate(opened, settings, "failed")
    settings = replace(settings, base_model="one-that-exists")
    with opened.session() as session:
        try_again(session, settings, store.run(session, failed))
        old, new = store.runs(session, "team")
        assert (old.state, new.state, new.config["base_model"]) == ("failed", "queued", "one-that-exists")
        assert prompts_given(settings, new) == ["n1", "n2"]
        with pytest.raises(ConflictError, match="on their way"):
            try_again(session, settings, old)
        new.state = "succeeded"
        for prompt in store.prompts(session, "team", "generating"):
            prompt.state = "ready"
        with pytest.raises(ConflictError, match="all prompts have candidates"):
            try_again(session, settings, old)


def test_prompts_of_a_failed_generation_come_with_the_next_import(opened: Store, settings: Settings) -> None:
    add_prompts(opened, "n1")
    generate(opened, settings, "failed")
    add_prompts(opened, "n2")
    generate(opened, settings, "succeeded")
    with opened.session() as session:
        assert prompts_given(settings, store.runs(session, "team")[-1]) == ["n1", "n2"]


def test_failed_reward_model_begins_anew_with_another_base_model(opened: Store, settings: Settings) -> None:
    rank(opened, 4)
    with opened.session() as session:
        failed = queue_reward(session, settings, "team", asked=False).run
        failed.state = "failed"
        session.flush()
        try_again(session, replace(settings, base_model="smaller"), failed)
        assert [(r.state, r.config["base_model"]) for r in store.runs(session, "team")] == [
            ("failed", "base"),
            ("queued", "smaller"),
        ]


def test_failed_run_is_tried_again_only_when_asked(opened: Store, settings: Settings) -> None:
    rank(opened, 4)
    with opened.session() as session:
        run = queue_reward(session, settings, "team", asked=False).run
        run.state, run.error, run.attempts = "failed", "out of memory", 3
        session.flush()
        assert not queue_reward(session, settings, "team", asked=False).new
        assert run.state == "failed"
        again = queue_reward(session, settings, "team", asked=True)
        assert again.new and again.run is run and (run.state, run.error, run.attempts) == ("queued", "", 0)
        with pytest.raises(ConflictError):
            requeue(run)


def test_changed_setting_makes_a_new_run_of_the_same_rankings(opened: Store, settings: Settings) -> None:
    rank(opened, 4)
    with opened.session() as session:
        first = queue_reward(session, settings, "team", asked=True)
        other = queue_reward(session, replace(settings, max_response_tokens=64), "team", asked=True)
        assert other.new and other.run.id != first.run.id


def test_reward_without_rankings_is_refused_and_begins_no_round(opened: Store, settings: Settings) -> None:
    with opened.session() as session:
        with pytest.raises(ConflictError):
            queue_reward(session, settings, "team", asked=True)
        assert store.rounds(session, "team") == []


def test_ppo_learns_from_train_and_is_checked_on_verification(opened: Store, settings: Settings) -> None:
    reward = add_model(opened, settings, "reward")
    with opened.session() as session:
        queued = queue_ppo(session, settings, collecting_round(session, "team"))
        assert queued.round.state == "tuning"
        assert queued.run.config["lineage"] == {"parent": "base", "reward_model": reward}
    directory = run_dir(settings, queued.run)
    assert {p.split for p in read_jsonl(directory.input("prompts.jsonl"), Prompt)} == {"train"}
    assert {p.split for p in read_jsonl(directory.input("verification.jsonl"), Prompt)} == {"verification"}
    config = PPOConfig.read(directory.config_path)
    assert Path(config.reward_model).name == reward and config.start_policy == ""


def test_ppo_without_verification_prompts_is_checked_on_those_it_learns_from(
    opened: Store, settings: Settings
) -> None:
    add_model(opened, settings, "reward")
    with opened.session() as session:
        for prompt in store.prompts(session, "team"):
            prompt.state = "deleted" if prompt.split == "verification" else prompt.state
        session.flush()
        queued = queue_ppo(session, settings, collecting_round(session, "team"))
    checked = read_jsonl(run_dir(settings, queued.run).input("verification.jsonl"), Prompt)
    assert {prompt.split for prompt in checked} == {"train"}


def test_ppo_without_reward_model_or_train_prompts_is_refused(opened: Store, settings: Settings) -> None:
    with opened.session() as session:
        current = collecting_round(session, "team")
        with pytest.raises(ConflictError, match="no reward model"):
            queue_ppo(session, settings, current)
    add_model(opened, settings, "reward")
    with opened.session() as session:
        for prompt in store.prompts(session, "team"):
            prompt.split = "unseen"
        session.flush()
        with pytest.raises(ConflictError, match="train split"):
            queue_ppo(session, settings, store.current_round(session, "team"))  # type: ignore[arg-type]


def test_ppo_starts_from_the_serving_policy(opened: Store, settings: Settings) -> None:
    add_model(opened, settings, "reward")
    policy = add_model(opened, settings, "policy")
    with opened.session() as session:
        store.workspace(session, "team").serving_policy = policy
        queued = queue_ppo(session, settings, collecting_round(session, "team"))
        assert queued.run.config["lineage"]["parent"] == policy
    assert Path(PPOConfig.read(run_dir(settings, queued.run).config_path).start_policy).name == policy


def test_tampered_reward_model_starts_no_ppo(opened: Store, settings: Settings) -> None:
    reward = add_model(opened, settings, "reward")
    (settings.models_dir / reward / "more.json").write_text("{}")
    with opened.session() as session, pytest.raises(RegistryError):
        queue_ppo(session, settings, collecting_round(session, "team"))


def test_review_takes_as_many_prompts_as_there_are(opened: Store, settings: Settings) -> None:
    policy = add_model(opened, settings, "policy")
    with opened.session() as session:
        queued = queue_compare(session, settings, collecting_round(session, "team"), policy)
    prompts = read_jsonl(run_dir(settings, queued.run).input("prompts.jsonl"), Prompt)
    assert [prompt.split for prompt in prompts] == ["train"] * 4 + ["unseen"] * 4  # of 4 and 10 wanted
    config = CompareConfig.read(run_dir(settings, queued.run).config_path)
    assert (config.before, config.before_id, config.after_id) == ("", "base", policy)


def test_generation_takes_the_new_prompts_once(opened: Store, settings: Settings) -> None:
    with opened.session() as session:
        assert queue_generate(session, settings, "team") is None
        session.add(PromptRow(workspace="team", prompt_id="p99", text="new", split="train", state="new"))
        session.flush()
        queued = queue_generate(session, settings, "team")
        assert queued and queued.new
        assert store.prompts(session, "team", "generating")[0].prompt_id == "p99"
        assert queue_generate(session, settings, "team") is None
    assert [p.id for p in read_jsonl(run_dir(settings, queued.run).input("prompts.jsonl"), Prompt)] == ["p99"]


def test_candidates_come_from_the_serving_policy_its_parent_and_the_base(
    opened: Store, settings: Settings
) -> None:
    parents = {1: "base", 2: "policy-team-1", 3: "policy-team-2", 4: "policy-team-1"}
    for number, parent in parents.items():
        model_id = add_model(opened, settings, "policy", number)
        with opened.session() as session:
            session.get_one(ModelRow, model_id).parent = parent
    seen = []
    for number in (0, 1, 3, 0, 4):  # promoted one after the other; 0 is the base model
        serving = f"policy-team-{number}" if number else "base"
        with opened.session() as session:
            registry.promote(session, "team", serving, "")
            prompt = f"new-{len(seen)}"
            session.add(PromptRow(workspace="team", prompt_id=prompt, text=prompt, split="train"))
            session.flush()
            queued = queue_generate(session, settings, "team")
            assert queued
            queued.run.state = "succeeded"  # while one is open there is no other
        config = GenerationConfig.read(run_dir(settings, queued.run).config_path)
        assert [Path(path).name for path in config.policies] == list(config.policy_ids)
        seen.append(config.policy_ids)
    one, two, three, four = (f"policy-team-{number}" for number in (1, 2, 3, 4))
    assert seen == [(), (one,), (two, three), (), (one, four)]


def test_workspace_may_set_what_concerns_it_alone(settings: Settings) -> None:
    own = WorkspaceRow(id="t", title="T", settings={"gate_accuracy": 0.6, "port": 1, "data_dir": "/", "x": 1})
    effective = settings_of(settings, own)
    assert effective == replace(settings, gate_accuracy=0.6)


@pytest.mark.parametrize(
    ("state", "number"), [("collecting", 1), ("gated", 1), ("failed", 1), ("reviewing", 2), ("decided", 2)]
)
def test_round_that_is_past_collecting_is_followed_by_the_next(
    opened: Store, state: str, number: int
) -> None:
    with opened.session() as session:
        collecting_round(session, "team").state = state  # type: ignore[assignment]
        session.flush()
        assert collecting_round(session, "team").number == number
