// The console's page: asks for the status every two seconds and draws each part that has changed.

import { draw, h } from "./dom.js";
import { advice, hero, problems, stepper } from "./journey.js";
import { samplesCard, verdictCard } from "./results.js";
import { modelsTable, runsTable } from "./tables.js";
import { currentLanguage, switchLanguage, t } from "./texts.js";
import { ppoPanel, rewardPanel } from "./training.js";

const EVERY_MS = 2000;
const PROJECTS = ["prompts", "ranking", "review", "report"];
const root = document.documentElement;
const page = { workspace: new URLSearchParams(location.search).get("workspace"), view: null, error: "" };

const act = {
  path: (name) => `/api/workspaces/${encodeURIComponent(page.view.status.workspace)}/${name}`,
  /** A button that asks first, then posts. */
  button: (name, values, address, body, look = "") =>
    h("button", { class: `button ${look}`, type: "button", onclick: async () => {
      if (await confirmed(t(name, values), t(`${name}_ask`, values))) await post(address, body);
    } }, t(name, values)),
};

function confirmed(title, question) {
  const dialog = document.getElementById("confirm");
  const [no, yes] = dialog.querySelectorAll("button");
  dialog.querySelector("h2").textContent = title;
  dialog.querySelector("p").textContent = question;
  no.textContent = t("confirm_no");
  yes.textContent = t("confirm_yes");
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

async function post(address, body) {
  const headers = { "Content-Type": "application/json", "X-CSRF-Token": root.dataset.csrf };
  try {
    const answer = await (await fetch(address, { method: "POST", headers, body: JSON.stringify(body) })).json();
    page.error = answer.error?.message ?? (answer.started === false ? answer[`reason_${currentLanguage()}`] : "");
  } catch {
    page.error = t("offline");
  }
  await refresh();
}

async function refresh() {
  const query = page.workspace ? `?workspace=${encodeURIComponent(page.workspace)}` : "";
  try {
    const response = await fetch(`/api/status${query}`, { cache: "no-cache" });
    if (response.status === 401) return location.reload();
    const view = await response.json();
    if (view.error) throw new Error(view.error.message);
    page.view = view;
    page.offline = "";
  } catch (error) {
    page.offline = error instanceof TypeError ? t("offline") : error.message;
  }
  render();
}

function render() {
  const { view } = page;
  const language = currentLanguage();
  const message = page.offline || page.error;
  draw("notice", [message], () => (message ? h("p", { class: "notice" }, message) : null));
  renderBar(language, view);
  root.dataset.ready = view ? "yes" : "no";
  if (!view) return;
  if (!view.status) return renderEmpty(language);
  const { status, curves, samples, links, gate_accuracy: gate } = view;
  const part = (id, data, build) => draw(id, [language, data], build);
  const runOf = (key) => {
    const step = status.steps.find((one) => one.key === key);
    return [step, status.runs.find(({ id }) => id === step.run_id)];
  };
  part("hero", [{ ...status, problems: 0, label_studio_error: 0 }, links], () => hero(status, links, act));
  part("steps", [status.steps, status.runs], () => stepper(status.steps, status.runs));
  part("problems", [status.problems, status.label_studio_error], () => problems(status));
  part("reward", [runOf("reward"), curves, gate], () => rewardPanel(...runOf("reward"), curves, gate));
  part("ppo", [runOf("ppo"), curves], () => ppoPanel(...runOf("ppo"), curves));
  part("verdict", status.rounds, () => verdictCard(status.rounds));
  part("advice", [status.advice, status.actions, links], () => advice(status, links, act));
  part("samples", samples, () => samplesCard(samples));
  part("models", status.models, () => modelsTable(status.models));
  part("runs", status.runs, () => runsTable(status.runs));
  document.title = `${status.title} · Label Studio RLHF`;
}

function renderBar(language, view) {
  document.getElementById("language").textContent = t("language");
  document.getElementById("log-out").textContent = t("log_out");
  document.getElementById("theme").title = t("theme");
  document.getElementById("theme").setAttribute("aria-label", t("theme"));
  const links = view?.links ?? {};
  draw("links", [language, links], () => PROJECTS.filter((name) => links[name]).map((name) =>
    h("a", { href: links[name], target: "_blank", rel: "noopener noreferrer", title: t("links_title") }, t(`link_${name}`), h("span", { "aria-hidden": "true" }, "↗"))));
  const workspaces = view?.workspaces ?? [];
  draw("workspaces", [language, workspaces, view?.status?.workspace], () => {
    const option = ({ id, title }) => h("option", { value: id, selected: id === view.status.workspace }, title);
    return workspaces.length ? h("select", { "aria-label": t("workspace"), onchange: choose }, workspaces.map(option)) : null;
  });
}

function choose(event) {
  page.workspace = event.target.value;
  history.replaceState(null, "", `?workspace=${encodeURIComponent(page.workspace)}`);
  refresh();
}

function renderEmpty(language) {
  draw("hero", [language], () => h("div", { class: "hero-text" },
    h("h1", {}, t("no_workspace")),
    h("p", { class: "summary" }, t("no_workspace_do")),
    h("pre", {}, "python -m scripts.setup_project team")));
  for (const id of ["steps", "problems", "reward", "ppo", "verdict", "advice", "samples", "models", "runs"]) {
    document.getElementById(id).hidden = true;
  }
}

function isDark() {
  return (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
}

document.getElementById("theme").addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
});
document.getElementById("language").addEventListener("click", () => {
  switchLanguage();
  render();
});

async function poll() {
  if (!document.hidden || !page.view) await refresh();
  setTimeout(poll, EVERY_MS);
}
poll();
