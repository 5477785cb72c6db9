"""Decoding: fast decoder, general decoder and library agree; responses depend on the generator alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.tiny_models import SENTENCES, Architecture, tiny_model_dir
from trainers import sampling
from trainers.config import PPOConfig
from trainers.conversations import encode_prompts, load_tokenizer
from trainers.decoder import Decoder, GenericDecoder, LlamaDecoder, decoder_for
from trainers.errors import ShapeError
from trainers.models import PolicyModel, load_policy, pad
from trainers.records import Prompt
from trainers.rollout import Rollout, evaluate, scatter
from trainers.sampling import choose, response_texts, sample
from trainers.trainable_policy import load_trainable_policy

PROMPTS = [Prompt(f"p{i}", text) for i, text in enumerate(SENTENCES)]
ARCHITECTURES: list[Architecture] = ["llama", "qwen2", "qwen3"]


def sampled(
    model: PolicyModel,
    directory: Path,
    seed: int = 0,
    temperature: float | list[float] = 1.0,
    batch_size: int = 64,
    max_new_tokens: int = 24,
) -> Rollout:
    tokenizer = load_tokenizer(directory)
    return sample(
        model,
        tokenizer,
        encode_prompts(tokenizer, PROMPTS),
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        generator=torch.Generator().manual_seed(seed),
        batch_size=batch_size,
    )


@pytest.mark.parametrize(
    ("decoder_class", "fused"), [(LlamaDecoder, True), (LlamaDecoder, False), (GenericDecoder, False)]
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_decoder_gives_the_hidden_states_of_the_forward_pass(
    architecture: Architecture,
    decoder_class: type[LlamaDecoder] | type[GenericDecoder],
    fused: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not fused:
        monkeypatch.setattr("trainers.fused_layers.COPY_PARAMETERS", 0)
    model = load_policy(str(tiny_model_dir(architecture)))
    prompts, more = [[5, 6, 7, 8, 9], [5, 6], [12, 13, 14]], torch.tensor([[20, 21], [30, 31], [40, 41]])
    decoder: Decoder = decoder_class(model)
    got = [decoder.start(prompts, 4), decoder.step(more[:, 0])]
    kept = torch.tensor([0, 2])
    decoder.keep(kept)
    last = decoder.step(more[kept, 1])
    for row in range(3):
        alone = model.hidden(*pad([[*prompts[row], *more[row].tolist()]], 0, "left"))[0]
        assert torch.allclose(got[0][row], alone[-3], atol=1e-5)
        assert torch.allclose(got[1][row], alone[-2], atol=1e-5)
        if row in kept:
            assert torch.allclose(last[kept.tolist().index(row)], alone[-1], atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_logprobs_while_decoding_equal_those_of_the_training_forward(architecture: Architecture) -> None:
    directory = tiny_model_dir(architecture)
    model = load_policy(str(directory))
    rollout = sampled(model, directory, temperature=0.8)
    again = scatter(evaluate(model, rollout, 0.8).logprobs, rollout.response_mask)
    assert torch.allclose(rollout.logprobs, again, atol=1e-5)
    assert float(rollout.logprobs[rollout.response_mask].min()) < -1.0  # not trivially zero


@torch.no_grad()
def test_fast_decoder_sees_the_active_adapter() -> None:
    directory = tiny_model_dir()
    config = PPOConfig(base_model=str(directory), reward_model="m:f", tuning="lora", lora_rank=4)
    policy = load_trainable_policy(config)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(0))
    assert isinstance(decoder_for(policy), LlamaDecoder)
    rollout = sampled(policy, directory)
    again = scatter(evaluate(policy, rollout, 1.0).logprobs, rollout.response_mask)
    assert torch.allclose(rollout.logprobs, again, atol=1e-5)
    with policy.as_reference() as reference:
        base = scatter(evaluate(reference, rollout, 1.0).logprobs, rollout.response_mask)
    assert float((again - base).abs().max()) > 0.1  # the adapter does something


def test_same_generator_same_responses_another_seed_others() -> None:
    directory = tiny_model_dir()
    model = load_policy(str(directory))
    assert torch.equal(sampled(model, directory).response_ids, sampled(model, directory).response_ids)
    assert not torch.equal(
        sampled(model, directory).response_ids, sampled(model, directory, seed=1).response_ids
    )


def test_batch_size_changes_no_response() -> None:
    directory = tiny_model_dir()
    model = load_policy(str(directory))
    assert sampled(model, directory).responses() == sampled(model, directory, batch_size=2).responses()


def test_both_decoders_draw_the_same_responses(monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tiny_model_dir("qwen3")
    model = load_policy(str(directory))
    fast = sampled(model, directory)
    monkeypatch.setattr(sampling, "decoder_for", GenericDecoder)
    assert sampled(model, directory).responses() == fast.responses()


@torch.no_grad()
def test_greedy_equals_the_librarys_greedy() -> None:
    directory = tiny_model_dir()
    model, tokenizer = load_policy(str(directory)), load_tokenizer(directory)
    ours = sampled(model, directory, temperature=0.0, max_new_tokens=12).responses()
    ids, mask = pad(encode_prompts(tokenizer, PROMPTS), tokenizer.pad_token_id, "left")
    theirs = model.causal_model.generate(ids, attention_mask=mask.long(), do_sample=False, max_new_tokens=12)
    for row, response in enumerate(ours):
        assert theirs[row, ids.shape[1] :].tolist()[: len(response)] == response


def test_each_row_has_its_own_temperature() -> None:
    directory = tiny_model_dir()
    model = load_policy(str(directory))
    temperatures = [0.0, 1.5] * 3
    mixed = sampled(model, directory, temperature=temperatures).responses()
    greedy = sampled(model, directory, seed=9, temperature=0.0).responses()
    assert mixed[::2] == greedy[::2]
    assert mixed[1::2] != greedy[1::2]


def test_drawing_follows_the_distribution() -> None:
    probabilities = torch.tensor([0.6, 0.0, 0.3, 0.1])
    chances = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    tokens, logprobs = choose(probabilities.log().expand(20_000, 4), torch.ones(20_000), chances)
    shares = torch.bincount(tokens, minlength=4) / 20_000
    assert shares.tolist() == pytest.approx([0.6, 0.0, 0.3, 0.1], abs=0.01)
    assert logprobs.exp().tolist()[:50] == pytest.approx(probabilities[tokens[:50]].tolist())


def test_the_last_chance_draws_a_possible_token() -> None:
    logits = torch.tensor([[0.0, 0.0, float("-inf")]])
    tokens, _ = choose(logits, torch.ones(1), torch.tensor([1.0 - 2**-24]))
    assert tokens.tolist() == [1]


def test_the_first_chance_draws_a_possible_token() -> None:
    logits = torch.tensor([[float("-inf"), 0.0, 0.0]])
    tokens, _ = choose(logits, torch.ones(1), torch.tensor([0.0]))
    assert tokens.tolist() == [1]


def test_unfinished_responses_are_marked_and_texts_hold_no_special_tokens() -> None:
    directory = tiny_model_dir()
    model, tokenizer = load_policy(str(directory)), load_tokenizer(directory)
    rollout = sampled(model, directory, temperature=1.5, max_new_tokens=80)
    eos = [tokenizer.eos_token_id == response[-1] for response in rollout.responses()]
    assert rollout.finished.tolist() == eos
    assert any(eos)
    assert not all(eos)
    assert not any("<|im_end|>" in text for text in response_texts(tokenizer, rollout))


def test_an_empty_prompt_is_refused() -> None:
    directory = tiny_model_dir()
    model, tokenizer = load_policy(str(directory)), load_tokenizer(directory)
    with pytest.raises(ShapeError, match="none empty"):
        sample(model, tokenizer, [[]], max_new_tokens=2, generator=torch.Generator())
