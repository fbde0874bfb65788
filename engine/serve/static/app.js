// The playground: settings on one side, one to four running columns on the other.

import { Comparison } from "./compare.js";
import { exported, save } from "./export.js";
import { Panel } from "./panel.js";
import { Settings } from "./settings.js";
import { call, explain } from "./stream.js";

const at = (id) => document.getElementById(id);
const MOVED_MS = 150; // a slider that moves is heard when it rests for so long
const LOADING_MS = 2000;

let info = { model: "default", thinking: {} };
let panels = [];
let running = null; // AbortController of the run, while there is one
const moved = new Map(); // timers by column
let changed = null; // timer

const settings = new Settings(at("form"), budgetMoved, remember);

function budgetMoved(index, budget) {
  clearTimeout(moved.get(index));
  moved.set(index, setTimeout(() => panels[index]?.setBudget(budget), running ? MOVED_MS : 0));
}

/** Keeps the settings in the address; seldom, since browsers limit how often one may. */
function remember() {
  clearTimeout(changed);
  changed = setTimeout(() => history.replaceState(null, "", `#${settings.fragment()}`), MOVED_MS);
  if (!running && panels.length !== settings.columns) layOut();
}

/** Fresh columns, empty, as many as are asked for. */
function layOut() {
  let comparison = null;
  const thinks = info.thinking !== null;
  panels = settings.budgets
    .slice(0, settings.columns)
    .map(({ value }, i) => new Panel(i + 1, thinks, value, () => comparison.update()));
  comparison = new Comparison(panels);
  at("columns").dataset.count = panels.length;
  at("columns").replaceChildren(...panels.map((panel) => panel.root));
}

async function run() {
  if (!at("form").reportValidity()) return;
  stop();
  layOut();
  const bodies = settings.bodies();
  const stream = { stream: true, stream_options: { include_usage: true }, thinking_events: true };
  const mine = new AbortController();
  setRunning(mine);
  if (matchMedia("(max-width: 860px)").matches) at("columns").scrollIntoView();
  const ends = await Promise.allSettled(panels.map((panel, i) => panel.run({ ...bodies[i], ...stream }, mine.signal)));
  if (ends.some((end) => end.status === "rejected")) askForKey();
  if (running === mine) setRunning(null);
}

function stop() {
  running?.abort();
  setRunning(null);
}

function setRunning(controller) {
  running = controller;
  at("stop").disabled = !controller;
  document.querySelector("[data-export=json]").disabled = !panels.some((panel) => panel.record);
}

function askForKey() {
  document.querySelector(".key").hidden = false;
  at("key").focus();
}

async function connect() {
  try {
    info = await (await call("server_info")).json();
  } catch (error) {
    at("model").textContent = error.status === 503 ? `${explain(error)} Asking again …` : explain(error);
    if (error.status === 401) askForKey();
    else setTimeout(connect, LOADING_MS);
    return;
  }
  if (info.scores) {
    at("model").textContent = `${info.model} gives scores and writes nothing: see /v1/score`;
    at("run").disabled = true;
    return;
  }
  const format = info.thinking ? ` · thinks after ${info.thinking.opener.trim()}` : " · does not think";
  at("model").textContent = `${info.model}${format} · context ${info.max_model_len.toLocaleString("en")}`;
  settings.setModel(info.default_params ?? {}, info.thinking !== null);
  if (!running) restore();
}

function restore() {
  stop();
  const runs = settings.read(location.hash.slice(1));
  if (info.thinking === null) settings.columns = 1;
  layOut();
  if (runs) run();
}

function showExport(kind) {
  const [title, text, name] = exported(kind, {
    bodies: settings.bodies(),
    model: info.model,
    fragment: settings.fragment(),
    run: { server: info, columns: panels.map((panel) => ({ ...panel.record, answer: panel.answer })) },
  });
  at("export-title").textContent = title;
  at("export-text").textContent = text;
  at("copy").textContent = "Copy";
  at("copy").onclick = async () => {
    try {
      await navigator.clipboard.writeText(text);
      at("copy").textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(at("export-text")); // no clipboard without https: ready for Ctrl-C
    }
  };
  at("download").onclick = () => save(text, name);
  at("export").showModal();
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  run();
});
at("stop").onclick = stop;
at("key").addEventListener("change", () => {
  sessionStorage.setItem("key", at("key").value);
  connect();
});
for (const button of document.querySelectorAll("[data-export]")) {
  button.onclick = () => showExport(button.dataset.export);
}
at("theme").onclick = () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  setTheme((document.documentElement.dataset.theme ?? dark) === "dark" ? "light" : "dark");
};
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run();
  } else if (event.key === "Escape" && running && !at("export").open) {
    stop();
  }
});
addEventListener("hashchange", restore);
if (localStorage.getItem("theme")) setTheme(localStorage.getItem("theme"));
settings.read(location.hash.slice(1));
layOut();
connect();
