// One column: a request, its thinking as it comes, its answer, its meters and its live controls.

import { Flow, appendChip, appendText, element } from "./flow.js";
import { Meters, count } from "./meters.js";
import { call, chat, explain } from "./stream.js";

const budgetName = (budget) => (budget === null ? "∞" : count(budget));

/** Why thinking ended: the colour of its rule and what stands on it. */
const ENDS = {
  natural: ["natural", () => "ended by itself"],
  eos: ["natural", () => "the model stopped writing"],
  budget: ["budget", (budget) => `budget ${count(budget)} reached`],
  truncated: ["budget", (budget) => `budget ${count(budget)} reached, no answer`],
  max_tokens: ["budget", () => "max tokens: room kept for the answer"],
  context: ["budget", () => "context: room kept for the answer"],
  loop: ["loop", () => "going round in circles"],
  client: ["client", () => "answer asked for"],
};

export class Panel {
  /** `changed` is called at most once a frame, after what came was shown. */
  constructor(index, thinks, budget, changed) {
    this.budget = budget;
    this.changed = changed;
    this.root = document.querySelector("#column").content.firstElementChild.cloneNode(true);
    this.root.id = this.root.dataset.testid = `column-${index}`;
    this.root.setAttribute("aria-label", `Column ${index}`);
    this.part = (name) => this.root.querySelector(`.${name}`);
    this.part("number").textContent = index;
    this.part("thinking").setAttribute("aria-label", `Thinking of column ${index}`);
    this.part("answer").setAttribute("aria-label", `Answer of column ${index}`);
    this.root.classList.toggle("plain", !thinks);
    this.flow = new Flow(this.part("thinking"), this.part("follow"));
    this.meters = new Meters(this.part("meters"));
    this.part("answer-now").onclick = () => this.control({ action: "end_thinking" }, "answer now");
    this.part("think-on").onclick = () => this.control({ action: "extend" }, "think on");
    const hint = index === 1 ? "Thinking appears here while it is written, the answer below it." : "";
    this.#setState("idle", hint); // then waiting, thinking, answering, done
    this.record = null;
    this.answer = "";
    this.rule = null;
    this.asked = false; // for the answer
    this.#showBudget();
    this.meters.show();
  }

  get running() {
    return this.state === "thinking" || this.state === "answering";
  }

  /** Sends `body` and shows what comes; errors are shown in the column, a 401 is thrown as well. */
  async run(body, signal) {
    this.record = { request: body, id: null, events: [], controls: [], thinking: null, usage: null, error: null };
    this.#setState("waiting", "waiting …");
    this.meters.start();
    try {
      for await (const chunk of chat(body, signal)) this.#take(chunk);
      const cut = this.record.finish_reason === "length" ? "cut off at max tokens" : "";
      this.#setState("done", cut);
    } catch (error) {
      this.record.error = error.name === "AbortError" ? "stopped" : error.message;
      this.#setState("done", error.name === "AbortError" ? "stopped" : explain(error), error.name !== "AbortError");
      if (error.status === 401) throw error;
    } finally {
      this.refresh();
    }
  }

  /** Steers the running request; what was asked stands in the stream where it was asked. */
  async control(action, name) {
    if (!this.running || !this.record.id) return;
    const said = element("span", "asked", name);
    this.flow.put(said);
    this.asked ||= action.action === "end_thinking";
    this.record.controls.push({ ...action, thinking_tokens: this.meters.thinking });
    try {
      await call(`v1/requests/${this.record.id}/control`, { body: action });
    } catch (error) {
      said.textContent = error.status === 404 ? `${name}: too late` : `${name}: ${explain(error)}`;
    }
  }

  /** Another budget, while it runs or before. */
  async setBudget(budget) {
    if (budget === this.budget) return;
    if (this.state === "thinking") {
      this.budget = budget;
      await this.#sendBudget();
    } else if (this.state === "idle" || this.state === "waiting") {
      this.budget = budget;
    }
    this.#showBudget();
  }

  #sendBudget() {
    return this.control({ action: "budget", budget: this.budget }, `budget ${budgetName(this.budget)}`);
  }

  #take(chunk) {
    this.record.id = chunk.id;
    if (this.state === "waiting") {
      this.#setState("thinking", "");
      if ((this.budget ?? -1) !== (this.record.request.thinking_token_budget ?? -1)) this.#sendBudget();
    }
    if (chunk.usage) this.record.usage = chunk.usage;
    for (const choice of chunk.choices) {
      if (choice.event) this.#piece(choice.event);
      if (choice.finish_reason) {
        const { finish_reason, thinking, forced } = choice;
        Object.assign(this.record, { finish_reason, thinking, forced });
        if (thinking?.stop_reason) this.#end(thinking.stop_reason);
      }
    }
    this.frame ??= requestAnimationFrame(() => this.refresh());
  }

  #piece(event) {
    const { kind, text, forced } = event;
    this.record.events.push(event);
    this.meters.take(event);
    const append = forced ? appendChip : appendText;
    if (kind === "reasoning") {
      this.flow.append(text, forced);
      if (this.state !== "thinking") this.#setState("thinking", "");
    } else if (kind === "delimiter") {
      if (!this.rule) this.#end(forced ? this.#likelyReason() : "natural");
      append(this.written, text);
    } else if (kind === "answer" || kind === "plain") {
      this.#setState("answering", "");
      const shown = this.answer ? text : text.trimStart();
      this.answer += shown;
      if (shown) append(this.part("answer"), shown);
    }
  }

  /** The rule at the end of thinking; the server's last word on why corrects what the stream suggested. */
  #end(reason) {
    const [kind, label] = ENDS[reason] ?? ["loop", () => reason];
    if (!this.rule) {
      this.rule = element("div");
      this.written = element("div", "written"); // to end thinking
      this.flow.put(this.rule);
      this.flow.put(this.written);
    }
    this.ended = true;
    this.rule.className = `rule ${kind}`;
    this.rule.dataset.testid = "rule";
    this.rule.dataset.reason = reason;
    this.rule.textContent = label(this.budget ?? this.meters.thinking);
  }

  /** Why the engine ends thinking, as far as the stream tells before its last chunk. */
  #likelyReason() {
    if (this.asked) return "client";
    return this.budget !== null && this.meters.thinking >= this.budget ? "budget" : "max_tokens";
  }

  #setState(state, status, failed = false) {
    this.state = state;
    this.root.dataset.state = state;
    const shown = this.part("status");
    if (shown.textContent !== status) shown.textContent = status;
    shown.classList.toggle("error", failed);
    this.part("answer-now").disabled = this.part("think-on").disabled = state !== "thinking";
  }

  /** Meters, scrolling and whoever compares; once a frame. */
  refresh() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    this.#showBudget();
    this.meters.show(this.record.usage);
    this.flow.scroll();
    this.changed();
  }

  #showBudget() {
    const used = this.meters.thinking;
    const share = this.budget === null ? 0 : this.budget ? Math.min(1, used / this.budget) : 1;
    const bar = this.part("bar");
    bar.classList.toggle("endless", this.budget === null);
    bar.firstElementChild.style.width = `${100 * share}%`;
    bar.setAttribute("aria-valuenow", used);
    bar.setAttribute("aria-valuemax", this.budget ?? used);
    this.part("used").textContent = count(used);
    this.part("limit").textContent = ` of ${budgetName(this.budget)}`;
  }
}
