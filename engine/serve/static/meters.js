// The figures of one run: tokens by what they are, and how fast they came.

import { element } from "./flow.js";

export const count = (number) => number.toLocaleString("en");

const LEAST_MS = 50; // a rate over less is that of a burst

const duration = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);

export class Meters {
  constructor(list) {
    this.list = list;
    this.thinking = this.forced = this.answer = this.tokens = 0;
  }

  start() {
    this.started = performance.now();
  }

  /** Counts one piece of text, by the clock of its arrival. */
  take({ kind, text, forced, tokens, thinking_tokens }) {
    const now = performance.now();
    if (this.tokens === 0) [this.first, this.burst] = [now, tokens];
    this.last = now;
    this.tokens += tokens;
    this.thinking = thinking_tokens;
    if (forced) this.forced += tokens;
    if (kind !== "answer" && kind !== "plain") return;
    if (text) this.firstAnswer ??= now;
    this.answer += tokens;
  }

  /** Draws them; the server's own counts (`usage`, at the end) correct ours. */
  show(usage) {
    const span = this.last - this.first;
    const rate = Math.round((1000 * (this.tokens - this.burst)) / span);
    const after = (at) => (at === undefined ? "–" : duration(at - this.started));
    const figures = {
      thinking: count(usage?.completion_tokens_details.reasoning_tokens ?? this.thinking),
      forced: count(usage?.completion_tokens_details.forced_tokens ?? this.forced),
      answer: count(this.answer),
      cached: usage ? count(usage.prompt_tokens_details.cached_tokens) : "–",
      "tokens/s": span > LEAST_MS ? count(rate) : "–",
      "first token": after(this.first),
      "first answer": after(this.firstAnswer),
    };
    this.list.replaceChildren(
      ...Object.entries(figures).map(([name, value]) => {
        const pair = element("div");
        pair.append(element("dt", "", name), element("dd", "", value));
        pair.dataset.testid = `meter-${name.replace("/", "-per-").replace(" ", "-")}`;
        return pair;
      }),
    );
  }
}
