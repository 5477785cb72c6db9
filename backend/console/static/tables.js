// The models and the runs of a workspace, newest first.

import { h } from "./dom.js";
import { modelName, stateText } from "./journey.js";
import { runTone } from "./training.js";
import { clock, count, duration, percent, t, whyFailed } from "./texts.js";

const SHOWN = 8;

export function modelsTable(models) {
  const rows = models.slice().reverse().slice(0, SHOWN).map((model) => [
    [h("code", {}, model.id), h("small", {}, stateText("kind", model.kind), model.metrics.accuracy ? ` · ${percent(model.metrics.accuracy)}` : ""),
      model.removed ? h("small", { class: "removed" }, t("model_removed", { removed: count(model.removed), rankings: count(model.rankings) })) : null],
    modelName(model.parent),
    clock(model.created),
    h("span", { class: `pill state-${model.serving ? "done" : "waiting"}` }, model.serving ? t("model_promoted") : stateText("model", model.state === "promoted" ? "published" : model.state)),
  ]);
  return table(t("models_title"), ["column_model", "column_from", "column_made", "column_state"], rows, t("models_none"));
}

export function runsTable(runs) {
  const rows = runs.slice().reverse().slice(0, SHOWN).map((run) => [
    [stateText("kind", run.kind), h("small", {}, h("code", {}, run.id))],
    run.progress_total ? `${count(run.progress_done)} / ${count(run.progress_total)}` : "–",
    run.started ? duration((run.finished ?? Date.now() / 1000) - run.started) : "–",
    h("span", { class: `pill state-${runTone(run.state)}`, title: whyFailed(run) || null }, stateText("run", run.state)),
  ]);
  return table(t("runs_title"), ["column_run", "column_progress", "column_time", "column_state"], rows, t("runs_none"));
}

function table(title, columns, rows, empty) {
  const head = h("div", { class: "card-head" }, h("h2", {}, title));
  if (!rows.length) return [head, h("p", { class: "empty" }, empty)];
  return [head, h("div", { class: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col" }, t(column))))),
    h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell) => h("td", {}, cell)))))))];
}
