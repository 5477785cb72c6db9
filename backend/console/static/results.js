// The blind review's verdict, and the answers as they change during PPO.

import { h } from "./dom.js";
import { count, number, percent, t } from "./texts.js";
import { change } from "./training.js";

const TONES = { better: "done", worse: "attention", no_difference: "waiting", not_enough_evidence: "people" };

/** Wins, ties and losses, seen and unseen apart; before the verdict, how far the review is.
 *  The last verdict stays until the next round's review begins. */
export function verdictCard(rounds) {
  const round = rounds.findLast(({ verdict, comparisons }) => verdict || comparisons);
  const verdict = round?.verdict;
  const head = (...more) => h("div", { class: "card-head" }, h("h2", {}, t("verdict_title")), ...more);
  if (!round) return [head(), h("p", { class: "empty" }, t("verdict_none"))];
  const judged = h("span", { class: "quiet-text" }, [t("round", { n: round.number }), t("judged", { done: count(round.judged), total: count(round.comparisons) })].join(" · "));
  if (!verdict) {
    const bar = h("i");
    bar.style.width = `${(100 * round.judged) / round.comparisons}%`;
    return [head(judged), h("p", { class: "verdict-line state-people" }, t("verdict_pending")), h("div", { class: "progress large" }, bar)];
  }
  return [
    head(judged),
    h("p", { class: `verdict-line state-${TONES[verdict.verdict]}` }, h("i"), t(`verdict_${verdict.verdict}`, { points: Math.round(100 * (verdict.largest_difference ?? 0)) })),
    tally(t("seen"), verdict.seen, verdict.win_rate_seen),
    tally(t("unseen"), verdict.unseen, verdict.win_rate_unseen),
    h("p", { class: "legend-line" }, ["wins", "ties", "losses"].map((name) => h("span", { class: name }, h("i"), t(name)))),
    h("dl", { class: "facts" },
      fact(t("win_rate"), percent(verdict.win_rate), verdict.interval ? interval(verdict.interval) : null),
      fact(t("p_value"), verdict.p_value < 0.001 ? "p < 0.001" : `p = ${number(verdict.p_value)}`),
      fact(t("length_review"), change(verdict.length_before, verdict.length_after), t("characters")),
      verdict.length_controlled?.win_rate == null ? null : fact(t("equal_length"), percent(verdict.length_controlled.win_rate), interval(verdict.length_controlled.interval)),
      verdict.reviewers?.share == null ? null : fact(t("reviewers"), percent(verdict.reviewers.share)),
      verdict.reviews_needed ? fact(t("reviews_needed"), t("about", { n: count(verdict.reviews_needed) })) : null),
  ];
}

const interval = ([low, high]) => `${percent(low)} – ${percent(high)}`;

const fact = (name, value, small) => h("div", {}, h("dt", {}, name), h("dd", {}, value, small ? h("small", {}, small) : null));

function tally(name, { wins, ties, losses }, rate) {
  const part = (kind, value) => {
    const element = h("span", { class: kind, title: `${t(kind)} ${value}` }, value || "");
    element.style.flexGrow = value;
    element.hidden = !value;
    return element;
  };
  return h("div", { class: "tally" },
    h("div", { class: "tally-head" }, h("span", {}, name), h("b", {}, percent(rate))),
    h("div", { class: "tally-bar", role: "img", "aria-label": `${name}: ${wins} ${t("wins")}, ${ties} ${t("ties")}, ${losses} ${t("losses")}` },
      part("wins", wins), part("ties", ties), part("losses", losses)));
}

const followed = { step: null };

/** Each prompt's first answer beside the one after the chosen update; the slider stays on the newest until moved. */
export function samplesCard(samples) {
  const head = h("div", { class: "card-head" }, h("div", {}, h("h2", {}, t("samples_title")), h("p", {}, t("samples_lead"))));
  const steps = [...new Set(samples.flatMap(({ answers }) => answers.map(({ step }) => step)))].sort((a, b) => a - b);
  if (steps.length === 0) return [head, h("p", { class: "empty" }, t("samples_none"))];
  const rows = h("div", { class: "samples" });
  const at = h("output", {});
  const show = (step) => {
    at.textContent = t("samples_at", { n: step });
    rows.replaceChildren(...samples.map((sample) => sampleRow(sample, step)));
  };
  const newest = steps.length - 1;
  const place = followed.step === null ? newest : Math.max(0, steps.findLastIndex((step) => step <= followed.step));
  const slider = h("input", { type: "range", min: 0, max: newest, value: place, "aria-label": t("axis_update"),
    oninput: () => {
      const index = Number(slider.value);
      followed.step = index === newest ? null : steps[index];
      show(steps[index]);
    } });
  head.append(h("label", { class: "scrub" }, slider, at));
  show(steps[place]);
  return [head, rows];
}

function sampleRow({ prompt, answers }, step) {
  const now = answers.findLast((answer) => answer.step <= step) ?? answers[0];
  return h("article", {},
    h("h3", {}, prompt),
    h("div", { class: "answers" }, answerBox(t("samples_before"), answers[0], "first"), answerBox(t("samples_at", { n: now.step }), now, "later")));
}

const answerBox = (label, { text, score }, kind) =>
  h("div", { class: `answer ${kind}` },
    h("p", { class: "answer-head" }, h("span", {}, label), score === null ? null : h("span", {}, `${t("score")} ${number(score)}`)),
    h("p", { class: "answer-text" }, text));
