// The top of the page: what happens next, the buttons, and the five steps.

import { h, s } from "./dom.js";
import { clock, count, known, percent, said, t } from "./texts.js";

const MOST_APPLIED = 10;

const ICONS = {
  waiting: null,
  running: null,
  people: "M8 11a3 3 0 1 0 0-6 3 3 0 0 0 0 6zm-5 8c0-3 2.2-5 5-5s5 2 5 5M16.5 12a2.5 2.5 0 1 0 0-5M16 14.2c2.4.2 4 2 4 4.8",
  done: "M5 12.5l4.5 4.5L19 7.5",
  attention: "M12 6v7.5M12 17.5v.5",
};

/** The sentence of the moment, the counts, and what one can do. */
export function hero(status, links, act) {
  const step = currentStep(status);
  return [
    h("div", { class: "hero-text" },
      h("p", { class: `moment state-${step.state}` },
        h("i"),
        [status.round ? t("round", { n: status.round.number }) : null, t(`steps_${step.key}`), t(`state_${step.state}`)].filter(Boolean).join(" · ")),
      h("h1", {}, said(status, "next")),
      status.counts.prompts === 0 ? null : h("p", { class: "summary" }, t(status.counts.rankings ? "summary" : "summary_unranked", {
        prompts: count(status.counts.prompts),
        responses: count(status.counts.responses),
        rankings: count(status.counts.rankings),
        annotators: count(status.counts.annotators),
        model: modelName(status.serving_policy),
      }))),
    h("div", { class: "actions" }, turn(step, status, links), buttons(status, act)),
  ];
}

/** The step that the sentence is about: what needs a decision, else what runs, else the verdict's advice, else what people do. */
function currentStep({ steps, advice }) {
  const newest = (wanted) => steps.findLast(({ state }) => state === wanted);
  const advised = steps.at(-1).state === "done" && advice.some(({ action }) => action) ? steps.at(-1) : null;
  return newest("attention") ?? newest("running") ?? advised ?? newest("people") ?? steps.find(({ state }) => state === "waiting") ?? steps.at(-1);
}

export const modelName = (id) => (id === "base" ? t("base") : id);

/** Where the team works when it is their turn. */
function turn({ key, state }, { counts, round }, links) {
  const toImport = [links.prompts, t("action_import_prompts")];
  const toRank = counts.tasks_left === 0 ? toImport : [links.ranking, t("action_rank")];
  const [address, text] = {
    candidates: toImport,
    rankings: toRank,
    reward: toRank,
    review: [links.review, t("action_review")],
  }[key] ?? [];
  const theirs = state === "people" || (key === "candidates" && counts.prompts === 0) || (key === "reward" && round?.state === "gated");
  return theirs && address ? outside(address, text, "primary") : null;
}

function buttons(status, act) {
  const running = status.runs.findLast(({ state }) => state === "running" || state === "queued");
  const training = running && running.kind !== "generate";
  const newest = newestPolicy(status);
  const made = [];
  if (training) made.push(act.button("stop", { id: running.id }, `/api/runs/${running.id}/cancel`, {}, "danger"));
  else if (status.counts.rankings_new && status.round?.state !== "reviewing") made.push(act.button("train", {}, act.path("train"), {}));
  const failed = status.runs.findLast(({ round_id: round }) => round && round === status.round?.id);
  if (!training && ["failed", "cancelled"].includes(failed?.state)) made.push(act.button("retry", {}, `/api/runs/${failed.id}/retry`, {}, "primary"));
  if (status.round?.state === "reviewing" && status.round.judged) {
    made.push(act.button("conclude", { done: count(status.round.judged), total: count(status.round.comparisons) }, act.path("conclude"), {}));
  }
  if (status.round?.state === "gated") {
    const passed = status.runs.findLast(({ kind }) => kind === "reward")?.result?.outcome === "passed";
    made.push(act.button(passed ? "ppo_passed" : "ppo", {}, act.path("ppo"), {}, passed ? "primary" : ""));
  }
  if (newest && !newest.serving && newest.state === "published") {
    const better = status.round?.verdict?.verdict === "better" && newest.round_id === status.round.id;
    made.push(act.button("promote", { model: newest.id }, act.path("promote"), { model: newest.id }, better ? "primary" : ""));
  }
  if (status.serving_policy !== "base") {
    made.push(act.button("rollback", { model: modelName(status.serving_policy) }, act.path("rollback"), {}));
  }
  return made;
}

const newestPolicy = (status) => status.models.findLast(({ kind }) => kind === "policy");

/** The five steps: state, progress, and why it is where it is. */
export function stepper(steps, runs) {
  return steps.map((step, index) => {
    const share = step.total ? Math.min(step.done / step.total, 1) : step.state === "done" ? 1 : 0;
    const bar = h("i");
    bar.style.width = `${share * 100}%`;
    return h("li", { class: `step state-${step.state}`, "aria-current": step.state === "running" ? "step" : null },
      h("div", { class: "step-mark" }, icon(step.state, index + 1)),
      h("div", { class: "step-body" },
        h("div", { class: "step-head" }, h("h2", {}, t(`steps_${step.key}`)), h("span", { class: "pill" }, t(`state_${step.state}`))),
        h("div", { class: "progress", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": step.total, "aria-valuenow": step.done, "aria-label": t(`steps_${step.key}`) }, bar),
        h("p", { class: "step-count" }, figure(step, runs.find(({ id }) => id === step.run_id)?.result)),
        h("p", { class: "reason" }, said(step, "reason"))));
  });
}

/** How far it is, or what it reached. */
function figure({ key, done, total }, result) {
  const shown = (value, unit) => [h("b", {}, value), h("small", {}, ` ${unit}`)];
  if (total) return shown(count(done), `/ ${count(total)}`);
  if (key === "reward" && result?.accuracy != null) return shown(percent(result.accuracy, 1), t("series_heldout"));
  if (key === "ppo" && result?.updates != null) return shown(count(result.updates), t("updates_done"));
  return h("b", {}, "–");
}

function icon(state, place) {
  if (!ICONS[state]) return h("span", {}, String(place));
  return s("svg", { viewBox: "0 0 24 24", width: 18, height: 18, "aria-hidden": "true" }, s("path", { d: ICONS[state] }));
}

/** What the last look at Label Studio could not use, and whether it could look at all. */
export function problems(status) {
  const lines = status.problems.map((problem) => said(problem));
  if (status.label_studio_error) lines.unshift(t("label_studio_down", { reason: status.label_studio_error }));
  return lines.length ? h("ul", { class: "problems" }, lines.map((line) => h("li", {}, line))) : null;
}

/** Advice, each with the number behind it and, where there is one, the thing to press; below, what was applied. */
export function advice(status, links, act) {
  const place = { rank_more: "ranking", show_tasks: "ranking", import_prompts: "prompts" };
  const button = (one) => {
    if (one.applies) return act.button("apply", { does: said(one, "does") }, act.path("apply"), { advice: one.id }, "small");
    return place[one.action] ? outside(links[place[one.action]], t(`action_${one.action}`)) : null;
  };
  return [
    h("div", { class: "card-head" }, h("h2", {}, t("advice_title"))),
    status.advice.length
      ? h("ul", { class: "advice" }, status.advice.map((one) =>
          h("li", {}, h("div", {}, h("p", {}, said(one)), one.applies ? h("p", { class: "aside" }, said(one, "does")) : null), button(one))))
      : h("p", { class: "empty" }, t("advice_none")),
    status.actions.length ? applied(status.actions.slice(-MOST_APPLIED).reverse(), act) : null,
  ];
}

/** What was changed and why; what is in force can be taken back. */
const applied = (actions, act) =>
  h("details", { class: "applied" },
    h("summary", {}, t("applied_title", { n: actions.length })),
    h("ul", {}, actions.map((one) =>
      h("li", {},
        h("div", {},
          h("p", {}, [clock(one.at), said(one, "changed"), one.run_id].filter(Boolean).join(" · ")),
          h("p", { class: "aside" }, said(one))),
        one.can_revert ? act.button("revert", {}, act.path("revert"), { advice: one.advice }, "small") : null))));

export const outside = (address, text, look = "small") =>
  h("a", { class: `button ${look}`, href: address, target: "_blank", rel: "noopener noreferrer" }, text, h("span", { "aria-hidden": "true" }, " ↗"));

export const stateText = (prefix, state) => known(`${prefix}_${state}`, state);
