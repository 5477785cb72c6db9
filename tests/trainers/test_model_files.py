"""Models whose files are damaged, incomplete, changed or of an architecture that is not supported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoHaConfig, LoraConfig, PeftConfig, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.tiny_models import tiny_model_dir
from trainers.config import PPOConfig, RewardConfig
from trainers.errors import ModelError
from trainers.manifest import write_manifest
from trainers.models import load_policy, load_reward_model, load_tokenizer
from trainers.reward_model import new_reward_model, save_reward_model
from trainers.trainable_policy import load_trainable_policy, save_policy

BASE = str(tiny_model_dir())
SMALL = {
    "vocab_size": 600,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 1,
    "bos_token_id": None,
    "eos_token_id": 3,
}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A copy of the tiny model, to be damaged."""
    return Path(shutil.copytree(BASE, tmp_path / "base"))


def change_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(directory: Path, **changes: torch.Tensor | None) -> None:
    """`None` takes a tensor out."""
    path = directory / "model.safetensors"
    weights = load_file(path) | {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({name: t for name, t in weights.items() if t is not None}, path, {"format": "pt"})


def adapter(directory: Path) -> Path:
    policy = load_trainable_policy(PPOConfig(base_model=BASE, reward_model="m:f", lora_rank=4))
    directory.mkdir(parents=True)
    save_policy(policy, load_tokenizer(BASE), directory, merge=False)
    return directory


def reward_model(directory: Path, tuning: str = "full") -> Path:
    reward, _ = new_reward_model(RewardConfig(base_model=BASE, tuning=tuning))  # type: ignore[arg-type]
    directory.mkdir(parents=True)
    save_reward_model(reward, directory)
    return directory


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "bloom", "falcon", "bert"])
def test_a_trunk_without_layers_of_its_own_is_refused_before_weights_are_loaded(
    model_type: str, base: Path
) -> None:
    small = {name: value for name, value in SMALL.items() if name != "head_dim"}  # Falcon derives it
    AutoConfig.for_model(model_type, **small).save_pretrained(base)
    (base / "model.safetensors").unlink()
    needed = f"`{model_type}` .*no `layers`.*Llama, Qwen2, Qwen3 or Mistral family"
    with pytest.raises(ModelError, match=needed):
        load_policy(str(base))
    with pytest.raises(ModelError, match=needed):
        new_reward_model(RewardConfig(base_model=str(base)))
    with pytest.raises(ModelError, match=needed):
        load_trainable_policy(PPOConfig(base_model=str(base), reward_model="m:f"))
    with pytest.raises(ModelError, match=needed):
        load_reward_model(BASE, str(base))


@pytest.mark.parametrize("model_type", ["gpt_neox", "phi3", "mixtral", "olmo2", "gemma", "mistral"])
@torch.no_grad()
def test_other_families_with_layers_of_the_same_kind_go_on_working(model_type: str, base: Path) -> None:
    config = AutoConfig.for_model(model_type, **SMALL)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(base)
    ids = torch.tensor([[5, 6, 7, 8]])
    policy = load_policy(str(base))
    logits = policy.logits(policy.hidden(ids, torch.ones_like(ids)))
    assert torch.allclose(logits, model.eval()(ids).logits, atol=1e-5)
    config.num_labels = 1
    classifier = AutoModelForSequenceClassification.from_config(config).eval()
    classifier.save_pretrained(base)
    score = float(load_reward_model(BASE, str(base)).head_scores(ids.tolist()))
    assert score == pytest.approx(float(classifier(ids).logits), abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"hidden_size": "big"}, "hidden_size"), ({"num_attention_heads": 7}, "attention heads")],
)
def test_a_configuration_of_wrong_values_is_a_model_error(
    change: dict[str, Any], message: str, base: Path
) -> None:
    change_config(base, **change)
    with pytest.raises(ModelError, match=message):
        load_policy(str(base))


def test_a_configuration_that_is_a_list_is_a_model_error(base: Path) -> None:
    (base / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="no usable"):
        load_policy(str(base))


def test_an_adapter_configuration_that_is_a_list_says_what_an_adapter_needs(tmp_path: Path) -> None:
    directory = adapter(tmp_path / "policy")
    (directory / "adapter_config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"adapter_config\.json and adapter_model\.safetensors"):
        load_policy(BASE, str(directory))


def test_of_a_run_directory_the_model_in_it_is_named(tmp_path: Path) -> None:
    adapter(tmp_path / "model")
    with pytest.raises(ModelError, match=f"did you mean `{tmp_path}/model`"):
        load_policy(BASE, str(tmp_path))
    with pytest.raises(ModelError, match=f"did you mean `{tmp_path}/model`"):
        load_reward_model(BASE, str(tmp_path))


NORM = "model__layers__1__input_layernorm__weight"


@pytest.mark.parametrize(
    ("tensor", "fault"),
    [(None, r"lacks.*`model\.layers\.1\.input_layernorm\.weight`"), (torch.ones(31), "another shape")],
)
def test_a_base_that_lacks_a_weight_is_refused(tensor: torch.Tensor | None, fault: str, base: Path) -> None:
    change_weights(base, **{NORM: tensor})
    with pytest.raises(ModelError, match=fault):
        load_policy(str(base))


@pytest.mark.parametrize(("layers", "fault"), [(3, "lacks"), (1, "num_hidden_layers")])
def test_another_number_of_layers_than_the_weights_have_is_refused(
    layers: int, fault: str, base: Path
) -> None:
    change_config(base, num_hidden_layers=layers)
    with pytest.raises(ModelError, match=fault):
        load_policy(str(base))


def test_an_output_layer_of_its_own_that_is_missing_is_refused(base: Path) -> None:
    change_config(base, tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"lacks.*`lm_head\.weight`"):
        load_policy(str(base))


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_a_reward_model_that_lacks_a_weight_is_refused(tuning: str, tmp_path: Path, base: Path) -> None:
    directory = reward_model(tmp_path / "reward", tuning)
    assert load_reward_model(BASE, str(directory)).heads == 1
    change_weights(directory if tuning == "full" else base, **{NORM: None})
    with pytest.raises(ModelError, match="lacks"):
        load_reward_model(str(base), str(directory))


def test_a_published_model_with_a_changed_byte_is_refused(tmp_path: Path) -> None:
    directory = adapter(tmp_path / "policy")
    write_manifest(directory, {})
    load_policy(BASE, str(directory))
    flip_last_byte(directory / "adapter_model.safetensors")
    with pytest.raises(ModelError, match=r"`adapter_model\.safetensors` has changed"):
        load_policy(BASE, str(directory))


def test_a_published_reward_model_with_a_changed_byte_is_refused(tmp_path: Path) -> None:
    directory = reward_model(tmp_path / "reward", "lora")
    write_manifest(directory, {})
    flip_last_byte(directory / "adapter_model.safetensors")
    with pytest.raises(ModelError, match="has changed"):
        load_reward_model(BASE, str(directory))
    with pytest.raises(ModelError, match="has changed"):
        load_trainable_policy(PPOConfig(base_model=BASE, reward_model=str(directory), tuning="lora"))


def test_a_published_model_may_be_named_by_a_link(tmp_path: Path) -> None:
    directory = adapter(tmp_path / "policy")
    write_manifest(directory, {})
    (tmp_path / "newest").symlink_to(directory)
    load_policy(BASE, str(tmp_path / "newest"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # peft, of the embedding
@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (LoraConfig(r=2, target_modules=["q_proj"], use_dora=True), "`use_dora` = `True`"),
        (LoraConfig(r=2, target_modules=["q_proj"], bias="lora_only"), "`bias` = `lora_only`"),
        (LoraConfig(r=2, target_modules=["q_proj", "embed_tokens"]), "adapts an embedding"),
        (LoHaConfig(r=2, target_modules=["q_proj"]), "is of the kind PeftType.LOHA"),
        (PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2), "is of the kind PeftType.PREFIX"),
    ],
    ids=["dora", "bias", "embedding", "loha", "prefix"],
)
def test_an_adapter_that_our_layers_do_not_compute_is_refused(
    settings: PeftConfig, fault: str, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir())
    get_peft_model(model, settings).save_pretrained(str(tmp_path))
    with pytest.raises(ModelError, match=f"{fault}.*needed is plain LoRA on linear layers"):
        load_policy(str(tiny_model_dir()), str(tmp_path))


def flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
