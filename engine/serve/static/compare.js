// Columns side by side: how far they say the same, where they part, which answers agree.

import { element } from "./flow.js";

/** What an answer says, without what surrounds it. */
export function essence(answer) {
  const boxed = answer.match(/\\boxed\{([^{}]*)\}/);
  const said = boxed ? boxed[1] : answer.replace(/^(\s*(final )?answer\s*:)+/i, "");
  return said.trim().replace(/\s+/g, " ").replace(/\.$/, "").toLowerCase();
}

export class Comparison {
  constructor(panels) {
    this.panels = panels;
    this.pairs = panels.flatMap((one, i) =>
      panels.slice(i + 1).map((other, j) => ({ sides: [one, other], names: [i + 1, i + j + 2], common: 0 })),
    );
  }

  /** Extends what is common by what came since; runs in the length of the news. */
  update() {
    for (const pair of this.pairs) this.#advance(pair);
    for (const panel of this.panels) {
      const common = this.pairs.filter((pair) => pair.sides.includes(panel)).map((pair) => pair.common);
      panel.flow.share(Math.max(0, ...common));
    }
    this.#agree();
  }

  #advance(pair) {
    if (pair.parted) return;
    const [a, b] = pair.sides.map((panel) => panel.flow.text);
    const shorter = Math.min(a.length, b.length);
    while (pair.common < shorter && a.charCodeAt(pair.common) === b.charCodeAt(pair.common)) pair.common += 1;
    const over = (panel) => panel.ended && panel.flow.text.length === pair.common;
    if (pair.common < shorter && /[\ud800-\udbff]/.test(a[pair.common - 1] ?? "")) pair.common -= 1; // half a character
    const ended = pair.sides.filter(over).length;
    pair.parted = pair.common < shorter || ended === 2 || (ended === 1 && pair.common < Math.max(a.length, b.length));
    if (!pair.parted) return;
    pair.sides.forEach((panel, side) => {
      if (over(panel)) return; // the rule at its end says so
      const mark = element("span", "parting");
      mark.dataset.testid = "divergence";
      mark.dataset.column = pair.names[1 - side];
      mark.role = "img";
      mark.ariaLabel = mark.title = `From here on column ${mark.dataset.column} says something else, or nothing`;
      panel.flow.mark(pair.common, mark);
    });
  }

  #agree() {
    const done = this.panels.filter((panel) => panel.state === "done" && panel.answer.trim());
    if (this.panels.length < 2 || done.length < this.panels.length) return;
    const said = this.panels.map((panel) => essence(panel.answer));
    this.panels.forEach((panel, i) => {
      const same = said.filter((answer) => answer === said[i]).length;
      const badge = panel.part("badge");
      badge.hidden = false;
      const some = `${same} of ${said.length} agree`;
      badge.textContent = same === 1 ? "differs" : same === said.length ? "all agree" : some;
      badge.classList.toggle("alone", same === 1);
    });
  }
}
