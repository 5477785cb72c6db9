// The reward model's and PPO's panels: live curves, and what came of the run.

import { gateGauge, lineChart } from "./charts.js";
import { h } from "./dom.js";
import { count, known, number, percent, t, whyFailed } from "./texts.js";

const whole = (value) => percent(value);

/** Loss and accuracy, then the gate. */
export function rewardPanel(step, run, curves, gate) {
  return [
    panelHead("reward", step, run),
    h("div", { class: "charts" },
      lineChart({
        title: t("loss"), xLabel: t("axis_step"), empty: t("no_reward_curve"),
        series: pair(curves, "reward/loss", "reward/heldout_loss", "series_train", "series_heldout"),
      }),
      lineChart({
        title: t("accuracy"), xLabel: t("axis_step"), empty: t("no_reward_curve"), format: whole, bounds: [0.4, 1],
        target: { value: gate, label: `${t("gate")} ${percent(gate)}` },
        series: pair(curves, "reward/accuracy", "reward/heldout_accuracy", "series_train", "series_heldout"),
      })),
    run?.result?.outcome === undefined ? null : gateResult(run.result, gate),
  ];
}

/** Reward and KL, length and clipped share, then what the run reached. */
export function ppoPanel(step, run, curves) {
  const empty = t("no_ppo_curve");
  const xLabel = t("axis_update");
  return [
    panelHead("ppo", step, run),
    h("div", { class: "charts" },
      lineChart({ title: t("reward"), xLabel, empty, series: pair(curves, "objective/score", "verify/score", "series_rollout", "series_verify") }),
      lineChart({ title: t("kl"), unit: t("axis_nats"), xLabel, empty, series: pair(curves, "objective/kl", "verify/kl", "series_rollout", "series_verify") })),
    curves["objective/score"] ? ppoFacts(run, curves) : null,
  ];
}

function pair(curves, first, second, firstLabel, secondLabel) {
  return [
    { label: t(firstLabel), points: curves[first], tone: "a" },
    { label: t(secondLabel), points: curves[second], tone: "b" },
  ];
}

function panelHead(name, step, run) {
  const failed = run?.state === "failed";
  return [
    h("div", { class: "card-head" },
      h("div", {}, h("h2", {}, t(`${name}_title`)), h("p", {}, t(`${name}_lead`))),
      run ? h("span", { class: `pill state-${runTone(run.state)}` }, runProgress(run)) : h("span", { class: `pill state-${step.state}` }, t(`state_${step.state}`))),
    failed ? h("p", { class: "failure" }, whyFailed(run)) : null,
  ];
}

export const runTone = (state) =>
  ({ running: "running", queued: "waiting", succeeded: "done", failed: "attention", cancelled: "waiting" })[state] ?? "waiting";

function runProgress(run) {
  const state = known(`run_${run.state}`, run.state);
  return run.state === "running" && run.progress_total ? `${state} ${count(run.progress_done)} / ${count(run.progress_total)}` : state;
}

function gateResult(result, gate) {
  const tone = { passed: "done", not_enough_evidence: "people", failed: "attention" }[result.outcome] ?? "waiting";
  const accuracy = percent(result.accuracy, 1);
  const interval = result.interval ? `${percent(result.interval[0])} – ${percent(result.interval[1])}` : "";
  const notes = [
    result.pairs ? t("of_pairs", { pairs: count(result.pairs) }) : null,
    result.ceiling ? `${t("ceiling")} ${percent(result.ceiling)}` : null,
    result.baseline_shorter > 0.5 ? t("shorter_baseline", { value: percent(result.baseline_shorter) }) : null,
    result.baseline_longer > 0.5 ? t("longer_baseline", { value: percent(result.baseline_longer) }) : null,
    result.outcome !== "passed" && result.rankings_needed ? t("rankings_needed", { n: count(result.rankings_needed) }) : null,
  ].filter(Boolean);
  return h("div", { class: "outcome" },
    h("div", { class: "outcome-head" },
      h("span", {}, t("heldout_accuracy")), h("strong", {}, accuracy), h("small", {}, interval),
      h("span", { class: `pill state-${tone}` }, known(`outcome_${result.outcome}`, result.outcome))),
    result.accuracy == null ? null : gateGauge({
      value: result.accuracy, interval: result.interval, gate, ceiling: result.ceiling,
      labels: { gate: `${t("gate")} ${percent(gate)}`, ceiling: t("ceiling"), value: accuracy },
    }),
    h("p", { class: "notes" }, notes.join(" · ")));
}

/** What the run reached; until it ends, what its curves say. */
function ppoFacts(run, curves) {
  const ends = (name) => [curves[name]?.[0]?.[1], curves[name]?.at(-1)?.[1]];
  const result = run?.result;
  const [rewardBefore, rewardNow] = ends("objective/score");
  const [lengthBefore, lengthNow] = ends("objective/length");
  const facts = [
    [t("reward_change"), result ? change(result.reward_before, result.reward_after) : change(rewardBefore, rewardNow)],
    [t("length_change"), result ? change(result.length_before, result.length_after) : change(lengthBefore, lengthNow), t("axis_tokens")],
    [t("kl_reached"), number(result?.kl ?? ends("objective/kl")[1])],
    [t("clip_fraction"), percent(ends("ppo/clip_fraction")[1] ?? 0, 1)],
    [t("updates"), count(result?.updates ?? run?.progress_done)],
    [t("stop_reason"), result ? known(`stop_${result.stop_reason}`, result.stop_reason) : "–", stopNumber(result)],
  ];
  return h("dl", { class: "facts" }, facts.map(([name, value, small]) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, value, small ? h("small", {}, small) : null))));
}

// that no look gained, or that all updates were made, says no number more: only a guard's is shown
const NO_GUARD = ["converged", "updates"];
const stopNumber = (result) => result?.stop_measured == null || NO_GUARD.includes(result.stop_reason) ? null
  : t("stop_number", { measured: number(result.stop_measured), limit: number(result.stop_limit) });

export const change = (before, after) => `${number(before)} → ${number(after)}`;
