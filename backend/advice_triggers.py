"""When a rule of `backend.advice` fires: thresholds, and a function a rule. Pure.

Each looks at the measurements and gives the numbers of its sentence, or none where it stays silent. `named`
among the numbers is prompts by which people recognise what is meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from backend.measurements import Measurements
from backend.people import shown

Numbers = dict[str, Any]
"""What the placeholders of a sentence stand for."""

FEW_PROMPTS = 60
FEW_RANKINGS = 200
"""With fewer, more of them is the first thing that a reward model lacks."""
LOW_AGREEMENT = 0.70
STRONG_CORRELATION = 0.8
ALIKE_SHARE = 0.05
VARIANTS_SHARE = 0.2
ENOUGH_JUDGEMENTS = 50
APART_GAP = 0.2
LOW_CONSISTENCY = 0.8
FEWEST_CONTESTED = 3
FAR_SHARE = 0.15
FEWEST_FAR = 3
NAMED = 3
SUSPICIOUS_SHARE = 0.2
UNSEEN_GAP = 0.2
REMOVED_SHARE = 0.05
GARBLED_SHARE = 0.02
FALLEN_BACK = 0.5
"""Share of the gain in score that was lost again at the last look."""
STABLE_CLIP = 0.15
"""The clip range for an unstable style."""
UNSTABLE_STOPS = frozenset({"garbled", "entropy_collapse", "diverged"})
"""Guards that end PPO because of its style; `trainers.verification` has them all."""


# --- the review ---


def promote(m: Measurements) -> Numbers | None:
    if m.verdict.get("verdict") != "better" or m.promoted or garbled(m):
        return None
    p_value = m.verdict["p_value"]
    return {
        "rate": m.verdict["win_rate"],
        "p": "p < 0.001" if p_value < 0.001 else f"p = {p_value:.2g}",
    }


def garbled(m: Measurements) -> Numbers | None:
    share = m.compare.get("garbled_after")
    if share is None or share <= GARBLED_SHARE or share * m.compare["comparisons"] < 1.5:
        return None  # a single answer may be chance
    return {"share": share}


def review_more(m: Measurements) -> Numbers | None:
    needed = m.verdict.get("reviews_needed") or 0
    if m.verdict.get("verdict") != "not_enough_evidence" or not needed:
        return None
    return {"judged": m.verdict["judged"], "p": m.verdict["p_value"], "needed": needed}


def review_few(m: Measurements) -> Numbers | None:
    made, wanted = m.compare.get("comparisons"), m.settings.review_seen + m.settings.review_unseen
    return None if made is None or made >= wanted else {"made": made, "wanted": wanted}


def unseen_worse(m: Measurements) -> Numbers | None:
    seen, unseen = m.verdict.get("win_rate_seen"), m.verdict.get("win_rate_unseen")
    if seen is None or unseen is None or seen - unseen < UNSEEN_GAP:
        return None
    far = (m.reward.get("coverage") or {}).get("far_prompts", ())
    return {"seen": seen, "unseen": unseen, "named": far[:NAMED]}


# --- PPO; of a model that won nothing need be mended ---


def kl_stop(m: Measurements) -> Numbers | None:
    if m.ppo.get("stop_reason") != "kl" or _won(m):
        return None
    return {"kl": m.ppo["stop_measured"], "limit": m.ppo["stop_limit"], "updates": m.ppo["updates"]}


def length_collapse(m: Measurements) -> Numbers | None:
    if m.ppo.get("stop_reason") != "length_collapse" or _won(m):
        return None
    return {"before": m.ppo["length_before"], "after": m.ppo["stop_measured"], "limit": m.ppo["stop_limit"]}


def length_explosion(m: Measurements) -> Numbers | None:
    if m.ppo.get("stop_reason") != "length_explosion" or _won(m):
        return None
    return {
        "before": m.ppo["length_before"], "after": m.ppo["looks"][-1]["length"],
        "share": m.ppo["stop_measured"], "limit": m.ppo["stop_limit"],
    }  # fmt: skip


def over_optimised(m: Measurements) -> Numbers | None:
    before, after = m.ppo.get("reward_before"), m.ppo.get("reward_after")
    rose = before is not None and after is not None and after > before
    worse = m.verdict.get("verdict") == "worse" and rose
    if _won(m) or not (m.ppo.get("stop_reason") == "over_optimisation" or worse):
        return None
    return {"before": before or 0.0, "after": after or 0.0, "best": m.ppo.get("best_update", 0)}


def style_unstable(m: Measurements) -> Numbers | None:
    return _unstable(m) if m.settings.clip_range > STABLE_CLIP else None


def unstable_again(m: Measurements) -> Numbers | None:
    return _unstable(m) if m.settings.clip_range <= STABLE_CLIP else None


def reward_flat(m: Measurements) -> Numbers | None:
    if m.ppo.get("best_update") != 0 or _won(m):
        return None
    share = max(_share_alike(m), _share_variants(m))
    if share <= ALIKE_SHARE:
        return None
    highest = max((look["score"] for look in m.ppo.get("looks", ())), default=m.ppo["reward_after"])
    return {"before": m.ppo["reward_before"], "after": highest, "share": share}


def _unstable(m: Measurements) -> Numbers | None:
    reason = str(m.ppo.get("stop_reason"))
    scores = [look["score"] for look in m.ppo.get("looks", ())]
    gained = max(scores, default=0.0) - (scores[0] if scores else 0.0)
    lost = (max(scores) - scores[-1]) / gained if gained > 0 else 0.0
    if _won(m) or not (reason in UNSTABLE_STOPS or lost > FALLEN_BACK):
        return None
    return {
        "reason": reason, "measured": m.ppo["stop_measured"], "limit": m.ppo["stop_limit"],
        "lost": max(0.0, lost), "clip": m.settings.clip_range,
    }  # fmt: skip


def _won(m: Measurements) -> bool:
    return m.verdict.get("verdict") == "better"


# --- the reward model ---


def guideline(m: Measurements) -> Numbers | None:
    if not _accuracy_low(m) or not _agreement_low(m):
        return None
    return {"accuracy": m.reward["accuracy"], "agreement": m.reward["agreement"],
            "named": m.contested[:NAMED]}  # fmt: skip


def rank_more(m: Measurements) -> Numbers | None:
    few = m.reward.get("outcome") == "failed" and m.rankings < FEW_RANKINGS and _accuracy_low(m)
    if _agreement_low(m) or not (m.reward.get("outcome") == "not_enough_evidence" or few):
        return None
    accuracy = m.reward.get("accuracy")
    low, high = m.reward.get("interval") or (0.0, 1.0)
    return {
        "accuracy": "—" if accuracy is None else f"{accuracy:.0%}", "low": low, "high": high,
        "gate": m.settings.gate_accuracy, "rankings": m.rankings,
        "needed": m.reward.get("rankings_needed", 20),
    }  # fmt: skip


def reward_low(m: Measurements) -> Numbers | None:
    failed = m.reward.get("outcome") == "failed" and _accuracy_low(m)
    if not failed or m.rankings < FEW_RANKINGS or _agreement_low(m):
        return None
    return {
        "accuracy": m.reward["accuracy"], "gate": m.settings.gate_accuracy, "rankings": m.rankings,
        "needed": m.reward.get("rankings_needed", 50),
    }  # fmt: skip


def baseline_alone(m: Measurements) -> Numbers | None:
    if m.reward.get("outcome") != "passed" or m.reward.get("beats_baselines") is not False:
        return None
    best = m.reward["best_baseline"]
    zh, en = ("越短越好", "the shorter wins") if best == "shorter" else ("越长越好", "the longer wins")
    return {"accuracy": m.reward["accuracy"], "rule_zh": zh, "rule_en": en,
            "baseline": m.reward[f"baseline_{best}"]}  # fmt: skip


def length_bias(m: Measurements) -> Numbers | None:
    correlation = m.reward.get("length_correlation")
    if correlation is None or abs(correlation) < STRONG_CORRELATION or baseline_alone(m):
        return None
    zh, en = ("越长", "longer") if correlation > 0 else ("越短", "shorter")
    return {"correlation": correlation, "better_zh": zh, "better_en": en}


def _accuracy_low(m: Measurements) -> bool:
    return (
        m.reward.get("outcome") in ("failed", "not_enough_evidence") and m.reward.get("accuracy") is not None
    )


def _agreement_low(m: Measurements) -> bool:
    agreement = m.reward.get("agreement")
    return agreement is not None and agreement < LOW_AGREEMENT


# --- the team ---


def agreement_low(m: Measurements) -> Numbers | None:
    if not _agreement_low(m) or guideline(m):
        return None
    return {"agreement": m.reward["agreement"], "named": m.contested[:NAMED]}


def annotator_apart(m: Measurements) -> Numbers | None:
    members = [
        member
        for member in (m.reward.get("team") or {}).get("members", ())
        if member["judgements"] >= ENOUGH_JUDGEMENTS
    ]
    if len(members) < 3:
        return None
    lowest = min(members, key=lambda member: float(member["rate"]))
    usual = median(member["rate"] for member in members)
    if usual - lowest["rate"] < APART_GAP:
        return None
    return {"annotator": shown(lowest["annotator"], m.people), "rate": lowest["rate"], "usual": usual}


def self_inconsistent(m: Measurements) -> Numbers | None:
    """Below this nobody can agree with others either."""
    if m.consistency.get("judgements", 0) < ENOUGH_JUDGEMENTS or m.consistency["rate"] >= LOW_CONSISTENCY:
        return None
    return {"rate": m.consistency["rate"], "prompts": m.consistency["prompts"]}


def adjudicate(m: Measurements) -> Numbers | None:
    team = m.reward.get("team") or {}
    contested = team.get("contested_prompts", 0)
    if contested < FEWEST_CONTESTED:
        return None
    return {"contested": contested, "shared": team["shared_prompts"], "named": m.contested[:NAMED]}


def suspicious(m: Measurements) -> Numbers | None:
    if not m.rankings or m.suspicious / m.rankings <= SUSPICIOUS_SHARE:
        return None
    return {"suspicious": m.suspicious, "rankings": m.rankings}


def retrain(m: Measurements) -> Numbers | None:
    """Training again leaves out what is gone or was edited."""
    return {"removed": m.removed.reward, "of": m.removed.of_reward} if m.removed.reward else None


def retrain_from(m: Measurements) -> Numbers | None:
    """The serving policy carries removed rankings on, whatever is trained from it. A few do not matter."""
    gone, total = m.removed.serving, m.removed.of_serving
    return {"removed": gone, "of": total, "clean": m.removed.clean} if gone > REMOVED_SHARE * total else None


# --- prompts and candidates ---


def scenario_thin(m: Measurements) -> Numbers | None:
    scenarios = (m.reward.get("coverage") or {}).get("scenarios", ())
    thin = [scenario for scenario in scenarios if scenario["thin"]]
    if not thin:
        return None
    named: Sequence[str] = [scenario["prompt_id"] for scenario in thin[:NAMED]]
    return {"scenarios": len(thin), "fewest": thin[0]["rankings"], "named": named}


def unseen_far(m: Measurements) -> Numbers | None:
    coverage = m.reward.get("coverage") or {}
    far, unseen = coverage.get("far", 0), coverage.get("unseen", 0)
    if far < FEWEST_FAR or far / unseen <= FAR_SHARE:
        return None
    return {"far": far, "unseen": unseen, "named": coverage["far_prompts"][:NAMED]}


def candidates_alike(m: Measurements) -> Numbers | None:
    share = _share_alike(m)
    if share <= ALIKE_SHARE or reward_flat(m):
        return None
    return {"share": share, "alike": m.generate["flagged"]["near_duplicate"],
            "candidates": m.generate["candidates"]}  # fmt: skip


def candidates_variants(m: Measurements) -> Numbers | None:
    share = _share_variants(m)
    if share <= VARIANTS_SHARE or reward_flat(m):
        return None
    return {"share": share, "variants": m.variants, "prompts": m.compared}


def prompts_flagged(m: Measurements) -> Numbers | None:
    return {"flagged": m.flagged, "prompts": m.prompts} if m.flagged else None


def few_prompts(m: Measurements) -> Numbers | None:
    return {"prompts": m.prompts} if 0 < m.prompts < FEW_PROMPTS else None


def _share_alike(m: Measurements) -> float:
    """Of the candidates that were made, those too much like another."""
    candidates = m.generate.get("candidates") or 0
    alike = (m.generate.get("flagged") or {}).get("near_duplicate", 0)
    return alike / candidates if candidates else 0.0


def _share_variants(m: Measurements) -> float:
    """Of the prompts, those whose candidates are variants of one answer."""
    return m.variants / m.compared if m.compared else 0.0
