"""Models from disk: three architectures, adapters, reward models, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BitsAndBytesConfig

from tests.tiny_models import SENTENCES, Architecture, tiny_model_dir
from trainers import model_files, models, quantisation
from trainers.config import PPOConfig, RewardConfig
from trainers.conversations import encode_conversations, encode_prompts, load_tokenizer
from trainers.errors import ConfigError, ModelError
from trainers.models import HEAD_ZEROS_FILE, load_policy, load_reward_model, resolve_tuning
from trainers.records import Message, Prompt
from trainers.reward_model import new_reward_model, save_reward_model
from trainers.trainable_policy import REFERENCE, TrainablePolicy, load_trainable_policy, save_policy

ARCHITECTURES: list[Architecture] = ["llama", "qwen2", "qwen3"]
IDS, MASK = torch.tensor([[5, 6, 7, 8]]), torch.ones(1, 4, dtype=torch.bool)


def trainable(tuning: str = "lora", start: str = "", architecture: Architecture = "llama") -> TrainablePolicy:
    config = PPOConfig(
        base_model=str(tiny_model_dir(architecture)),
        reward_model="m:f",
        tuning=tuning,  # type: ignore[arg-type]
        lora_rank=4,
        start_policy=start,
    )
    return load_trainable_policy(config)


@torch.no_grad()
def change(policy: TrainablePolicy, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for tensor in policy.trainable_state().values():
        tensor += 0.1 * torch.randn(tensor.shape, generator=generator)


def saved(policy: TrainablePolicy, directory: Path, merge: bool = False) -> Path:
    directory.mkdir()
    save_policy(policy, load_tokenizer(tiny_model_dir()), directory, merge=merge)
    return directory


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tokenizer_reads_back_what_it_wrote(architecture: Architecture) -> None:
    tokenizer = load_tokenizer(tiny_model_dir(architecture))
    for text in [*SENTENCES, "全新的词：热水壶 😀", "naïve – 12.5 %"]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side_is_the_one_asked_for(side: str) -> None:
    assert load_tokenizer(tiny_model_dir(), side).padding_side == side


def test_prompt_goes_through_the_chat_template_with_system_and_history() -> None:
    tokenizer = load_tokenizer(tiny_model_dir())
    history = (Message("user", "hi"), Message("assistant", "hello"))
    prompt = Prompt("p1", "and now?", system="Be kind.", history=history)
    [ids] = encode_prompts(tokenizer, [prompt], style_system="Be brief.")
    assert tokenizer.decode(ids) == (
        "<|im_start|>system\nBe kind.\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n"
        "<|im_start|>user\nand now?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_prompt_without_system_has_no_system_turn() -> None:
    tokenizer = load_tokenizer(tiny_model_dir())
    assert "system" not in tokenizer.decode(encode_prompts(tokenizer, [Prompt("p", "hi")])[0])


STRICT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}[{{ message.role }}]{{ message.content }}{% endfor %}"
)
NO_SYSTEM_TEMPLATE = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}"
)
DEAF_TEMPLATE = (
    "{% for message in messages %}{% if message.role != 'system' %}"
    "[{{ message.role }}]{{ message.content }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("template", [STRICT_TEMPLATE, NO_SYSTEM_TEMPLATE, DEAF_TEMPLATE])
def test_where_the_template_takes_no_system_message_it_begins_the_first_user_message(template: str) -> None:
    tokenizer = load_tokenizer(tiny_model_dir())
    tokenizer.chat_template = template
    history = (Message("user", "hi"), Message("assistant", "hello"))
    prompts = [Prompt("p1", "and now?", system="Be kind.", history=history), Prompt("p2", "how?")]
    with_style = encode_prompts(tokenizer, prompts, style_system="Be brief.")
    assert [tokenizer.decode(ids) for ids in with_style] == [
        "[user]Be kind.\nBe brief.\n\nhi[assistant]hello[user]and now?",
        "[user]Be brief.\n\nhow?",
    ]
    sampled = encode_prompts(tokenizer, prompts)
    trained = encode_conversations(tokenizer, prompts, ["well", "so"])
    assert [ids[: len(start)] for ids, start in zip(trained, sampled, strict=True)] == sampled
    assert tokenizer.decode(sampled[1]) == "[user]how?"


def test_whether_the_template_takes_a_system_message_is_tried_once_for_all_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokenizer = load_tokenizer(tiny_model_dir())
    tokenizer.chat_template = STRICT_TEMPLATE
    rendered: list[object] = []
    render = tokenizer.apply_chat_template

    def counted(*given: Any, **options: Any) -> Any:
        rendered.append(given)
        return render(*given, **options)

    monkeypatch.setattr(tokenizer, "apply_chat_template", counted)
    for _ in range(2):
        encode_prompts(tokenizer, [Prompt("p", "hi")] * 3, style_system="Be brief.")
    assert len(rendered) == 1 + 2 * 3


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (STRICT_TEMPLATE, "Conversation roles must alternate user/assistant/user/assistant/..."),
        ("{% for message in messages %}", "Unexpected end of template"),
        ("{{ raise_exception('no' * 500) }}", "no" * 100),
    ],
)
def test_a_conversation_that_the_template_refuses_is_a_model_error(template: str, reason: str) -> None:
    tokenizer = load_tokenizer(tiny_model_dir())
    tokenizer.chat_template = template
    prompt = Prompt("p", "secret", system="Be kind.", history=(Message("user", "hi"),))
    with pytest.raises(ModelError, match="chat template cannot render the conversation") as caught:
        encode_conversations(tokenizer, [prompt], ["well"])
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 450


def test_of_a_long_prompt_the_end_is_kept() -> None:
    tokenizer, prompt = load_tokenizer(tiny_model_dir()), Prompt("p", "word " * 50)
    whole, cut = encode_prompts(tokenizer, [prompt])[0], encode_prompts(tokenizer, [prompt], max_tokens=9)[0]
    assert cut == whole[-9:]


def test_conversation_ends_with_the_response_and_eos() -> None:
    tokenizer, prompt = load_tokenizer(tiny_model_dir()), Prompt("p", "hi")
    [ids] = encode_conversations(tokenizer, [prompt], ["well"])
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids).endswith("<|im_start|>assistant\nwell<|im_end|>")


@pytest.mark.parametrize("layers", ["fused", "own", "the library's"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_score_alone_is_the_librarys_and_equals_that_in_a_padded_batch(
    architecture: Architecture, layers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if layers == "own":
        monkeypatch.setattr("trainers.fused_layers.COPY_PARAMETERS", 0)
    elif layers == "the library's":
        monkeypatch.setattr("trainers.models.is_llama", lambda _trunk: False)
    config = RewardConfig(base_model=str(tiny_model_dir(architecture)))
    reward, _ = new_reward_model(config)
    nn.init.normal_(reward.classifier.score.weight, generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr, arg-type]
    rows = [[5, 6, 7, 8, 9, 10, 11], [12, 13, 14], [15, 3]]
    alone = [float(reward.head_scores([row])) for row in rows]
    library = [float(reward.classifier(torch.tensor([row])).logits) for row in rows]
    assert alone == pytest.approx(library, abs=1e-5)
    assert reward.head_scores(rows).squeeze(1).tolist() == pytest.approx(alone, abs=1e-5)
    assert len({round(score, 4) for score in alone}) == 3


@pytest.mark.parametrize("tuning", ["full", "lora"])
@torch.no_grad()
def test_reward_model_comes_back_as_it_was_saved(tuning: str, tmp_path: Path) -> None:
    base = str(tiny_model_dir())
    reward, _ = new_reward_model(RewardConfig(base_model=base, tuning=tuning))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for parameter in reward.parameters():
        if parameter.requires_grad:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    (tmp_path / "reward").mkdir()
    save_reward_model(reward, tmp_path / "reward")
    again = load_reward_model(base, str(tmp_path / "reward"))
    score = reward.head_scores(IDS.tolist())
    assert torch.allclose(again.head_scores(IDS.tolist()), score, atol=1e-6)
    assert abs(float(score)) > 1e-3


@pytest.mark.parametrize("tuning", ["full", "lora"])
@torch.no_grad()
def test_policy_comes_back_as_it_was_saved(tuning: str, tmp_path: Path) -> None:
    policy = trainable(tuning)
    base = policy.hidden(IDS, MASK)
    change(policy)
    again = load_policy(str(tiny_model_dir()), str(saved(policy, tmp_path / "policy")))
    assert torch.allclose(again.hidden(IDS, MASK), policy.hidden(IDS, MASK), atol=1e-5)
    assert not torch.allclose(base, policy.hidden(IDS, MASK), atol=0.1)


@pytest.mark.parametrize("first", ["full", "lora"])
@pytest.mark.parametrize("second", ["full", "lora"])
@torch.no_grad()
def test_second_round_starts_from_the_first_rounds_policy(first: str, second: str, tmp_path: Path) -> None:
    base = str(tiny_model_dir())
    before = trainable(first)
    change(before)
    directory = str(saved(before, tmp_path / "first"))
    policy = trainable(second, start=directory)
    with policy.as_reference() as reference:
        assert torch.allclose(reference.hidden(IDS, MASK), before.hidden(IDS, MASK), atol=1e-4)
    assert torch.allclose(policy.hidden(IDS, MASK), before.hidden(IDS, MASK), atol=1e-4)
    change(policy, seed=1)
    merge = not policy.has_adapter(REFERENCE)
    again = load_policy(base, str(saved(policy, tmp_path / "second", merge=merge)))
    assert torch.allclose(again.hidden(IDS, MASK), policy.hidden(IDS, MASK), atol=1e-4)
    with policy.as_reference() as reference:
        assert torch.allclose(reference.hidden(IDS, MASK), before.hidden(IDS, MASK), atol=1e-4)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_reference_leaves_the_policy_trainable(tuning: str) -> None:
    policy = trainable(tuning)
    names = set(policy.trainable_state())
    with policy.as_reference():
        pass
    assert set(policy.trainable_state()) == names
    assert any("lora_A.default" in name for name in names) == (tuning == "lora")


def test_trained_tensors_of_another_rank_are_refused() -> None:
    policy = trainable()
    state = {name: torch.zeros(*tensor.shape, 2) for name, tensor in policy.trainable_state().items()}
    with pytest.raises(ModelError, match="`lora_rank`"):
        policy.load_trainable_state(state)


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_base_without_its_library_says_what_to_install(
    bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantisation, "find_spec", lambda _name: None)
    config = PPOConfig(base_model=str(tiny_model_dir()), reward_model="m:f", base_bits=bits)
    with pytest.raises(ConfigError, match=f"`base_bits` is `{bits}`.*pip install bitsandbytes"):
        load_trainable_policy(config)


@pytest.mark.parametrize(("bits", "wanted"), [(8, "load_in_8bit"), (4, "load_in_4bit")])
def test_bits_of_the_base_reach_the_loader(bits: int, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def loader(*_: object, **options: Any) -> None:
        given.update(options)
        raise ValueError("seen")

    monkeypatch.setattr(quantisation, "find_spec", lambda name: name)
    monkeypatch.setattr(BitsAndBytesConfig, "post_init", lambda self: None)  # asks the library itself
    monkeypatch.setattr(models.AutoModelForCausalLM, "from_pretrained", loader)
    config = PPOConfig(base_model=str(tiny_model_dir()), reward_model="m:f", base_bits=bits)
    with pytest.raises(ModelError, match="seen"):
        load_trainable_policy(config)
    assert getattr(given["quantization_config"], wanted)
    assert given["use_safetensors"]
    assert not given["trust_remote_code"]


def test_full_weights_on_a_quantised_base_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "quantisation", lambda *_: {})  # what is refused is refused before
    start = str(saved(trainable("full"), tmp_path / "policy"))
    config = PPOConfig(base_model=str(tiny_model_dir()), reward_model="m:f", base_bits=8, start_policy=start)
    with pytest.raises(ModelError, match="name it as `base_model` instead"):
        load_trainable_policy(config)


def test_reward_model_without_a_score_head_is_refused_and_gets_no_random_one() -> None:
    with pytest.raises(ModelError, match=r"holds no `score\.weight`"):
        load_reward_model(str(tiny_model_dir()), str(tiny_model_dir("qwen2")))


def test_reward_model_that_gives_two_numbers_is_refused_unless_it_is_an_ensemble(tmp_path: Path) -> None:
    reward, _ = new_reward_model(RewardConfig(base_model=str(tiny_model_dir()), ensemble=2))
    save_reward_model(reward, tmp_path)
    assert load_reward_model(str(tiny_model_dir()), str(tmp_path)).heads == 2
    (tmp_path / HEAD_ZEROS_FILE).unlink()
    with pytest.raises(ModelError, match="gives 2 numbers to an answer"):
        load_reward_model(str(tiny_model_dir()), str(tmp_path))


def test_no_pickle_is_read(tmp_path: Path) -> None:
    config = json.loads((tiny_model_dir() / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        load_policy(str(tmp_path))


def test_an_adapter_saved_as_pickle_is_refused(tmp_path: Path) -> None:
    directory = saved(trainable("lora"), tmp_path / "policy")
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")
    with pytest.raises(ModelError, match="only safetensors"):
        load_policy(str(tiny_model_dir()), str(directory))


@pytest.mark.parametrize("missing", ["/nowhere/model", "./nowhere", "a/b/c"])
def test_a_missing_directory_says_what_is_needed(missing: str) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_policy(missing)
    with pytest.raises(ModelError, match="does not exist"):
        load_policy(str(tiny_model_dir()), missing)


def test_a_hub_name_that_cannot_be_reached_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(model_files, "snapshot_download", unreachable)
    with pytest.raises(ModelError, match="hf download Some/Model --local-dir DIR"):
        load_policy("Some/Model")


def test_damaged_weights_are_a_model_error(tmp_path: Path) -> None:
    for file in tiny_model_dir().iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ModelError, match="no usable"):
        load_policy(str(tmp_path))


def test_a_model_without_chat_template_is_refused(tmp_path: Path) -> None:
    for file in tiny_model_dir().iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ModelError, match="no chat template"):
        load_tokenizer(tmp_path)


def test_a_model_that_does_not_fit_says_how_much_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_files, "free_bytes", lambda: 1000)
    with pytest.raises(ModelError, match=r"needs about .* GiB, 0\.0 GiB are free"):
        load_policy(str(tiny_model_dir()))


def test_logits_that_the_architecture_rescales_are_refused(tmp_path: Path) -> None:
    config = json.loads((tiny_model_dir() / "config.json").read_text()) | {"final_logit_softcapping": 30.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="final_logit_softcapping"):
        load_policy(str(tmp_path))


@pytest.mark.parametrize(("size", "expected"), [(4_500_000, "full"), (500_000_000, "lora")])
def test_reward_tuning_goes_by_model_size_unless_it_is_set(size: int, expected: str) -> None:
    assert resolve_tuning(RewardConfig(base_model="b"), size) == expected
    assert resolve_tuning(RewardConfig(base_model="b", tuning="lora"), size) == "lora"
    assert resolve_tuning(RewardConfig(base_model="b", tuning="full"), size) == "full"


def test_ppo_takes_lora_unless_it_is_told_otherwise() -> None:
    assert resolve_tuning(PPOConfig(base_model="b", reward_model="m:f"), 4_500_000) == "lora"
    assert resolve_tuning(PPOConfig(base_model="b", reward_model="m:f", tuning="full"), 10**9) == "full"
