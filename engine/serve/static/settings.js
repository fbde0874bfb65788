// What a person has set: the form, the same in a permalink's fragment, and the requests that it makes.

import { Budget, drawTicks, parseBudget } from "./budget.js";

const FIELDS = {
  prompt: "prompt", min: "min", waits: "waits", wait: "wait-string", temperature: "temperature", seed: "seed",
  max: "max-tokens",
};
const PARAMETERS = {
  min: "min_thinking_tokens", waits: "thinking_extensions", wait: "thinking_extension_str", temperature: "temperature",
  seed: "seed", max: "max_tokens",
};
const SUGGESTED_WAITS = 2;
const SUGGESTED = [null, 64, 32, 16]; // budgets of further columns, until somebody sets them
const QUESTION = "Count up from 18 in steps of 7. Which is the first number after 18 that leaves 1 when divided by 5?";

const field = (name) => document.getElementById(FIELDS[name]);
const whole = (text) => (text === "" ? null : Number(text));

export class Settings {
  /** `budgetMoved(index, budget)`: a slider was moved; `changed()`: anything was. */
  constructor(form, budgetMoved, changed) {
    this.form = form;
    this.thinks = true;
    this.defaults = { min_thinking_tokens: 0, thinking_extensions: 0, thinking_extension_str: "Wait" };
    this.budgets = SUGGESTED.map(
      (value, i) => new Budget(i + 1, value, () => budgetMoved(i, this.budgets[i].value)),
    );
    document.getElementById("budgets").append(...this.budgets.map((budget) => budget.root));
    drawTicks(document.getElementById("ticks"));
    field("prompt").value = QUESTION;
    form.addEventListener("input", () => {
      this.#show();
      changed();
    });
    this.#show();
  }

  /** The server's defaults, where the fragment says nothing; `thinks`: whether there is anything to limit. */
  setModel(defaults, thinks) {
    const given = new URLSearchParams(location.hash.slice(1));
    this.defaults = { ...this.defaults, ...defaults };
    for (const [name, key] of Object.entries(PARAMETERS)) {
      if (!given.has(name) && defaults[key] != null) field(name).value = defaults[key];
    }
    if (!given.has("waits") && !defaults.thinking_extensions) field("waits").value = SUGGESTED_WAITS;
    const budget = defaults.thinking_token_budget;
    if (!given.has("budget") && budget != null) this.budgets[0].value = budget < 0 ? null : budget;
    this.thinks = thinks;
    document.getElementById("thinking").disabled = !thinks;
    document.getElementById("no-thinking").hidden = thinks;
    if (!thinks) this.columns = 1;
    this.#show();
  }

  get columns() {
    return Number(this.form.elements.columns.value);
  }

  set columns(number) {
    this.form.elements.columns.value = String(number);
  }

  get #active() {
    return this.budgets.slice(0, this.columns);
  }

  /** One request body per column, all with the same seed. */
  bodies() {
    const text = (name) => field(name).value;
    const seed = whole(text("seed")) ?? Math.floor(Math.random() * 2 ** 31);
    const messages = [{ role: "user", content: text("prompt") }];
    const body = { messages, temperature: Number(text("temperature")), seed };
    if (text("max") !== "") body.max_tokens = Number(text("max"));
    if (!this.thinks) return [body];
    for (const name of ["min", "waits", "wait"]) {
      const value = name === "wait" ? text(name) : Number(text(name));
      if (value !== this.defaults[PARAMETERS[name]]) body[PARAMETERS[name]] = value;
    }
    return this.#active.map(({ value }) => ({ ...body, thinking_token_budget: value ?? -1 })) // absent, it is the server's default;
  }

  /** The fragment that `read` restores all this from. */
  fragment() {
    const said = new URLSearchParams(Object.keys(FIELDS).map((name) => [name, field(name).value]));
    said.set("budget", this.#active.map(({ value }) => value ?? "inf").join());
    return said.toString();
  }

  /** Restores what a fragment says; true where it asks to run as well. */
  read(fragment) {
    const said = new URLSearchParams(fragment);
    for (const name of Object.keys(FIELDS)) if (said.has(name)) field(name).value = said.get(name);
    const budgets = (said.get("budget") ?? "").split(",").map(parseBudget).slice(0, this.budgets.length);
    if (said.has("budget") && budgets.every((budget) => budget !== undefined)) {
      budgets.forEach((budget, i) => (this.budgets[i].value = budget));
      this.columns = budgets.length;
    }
    this.#show();
    return said.get("run") === "1";
  }

  #show() {
    document.getElementById("waits-value").value = field("waits").value;
    field("waits").style.setProperty("--share", `${(100 * field("waits").value) / 8}%`);
    this.budgets.forEach((budget, i) => (budget.root.hidden = i >= this.columns));
  }
}
