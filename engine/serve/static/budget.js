// A budget as a person sets it: a slider (0, then 8 to 32k on a logarithmic scale, then ∞) and the exact number.

const LEAST = 8;
const PER_DOUBLING = 8;
const TOP = 1 + 12 * PER_DOUBLING; // the step of 32k; one more has no limit
const TICKS = { 0: "0", 32: "32", 128: "128", 512: "512", 2048: "2k", 8192: "8k" };

const budgetAt = (step) => {
  if (step === 0 || step > TOP) return step ? null : 0;
  const exact = LEAST * 2 ** ((step - 1) / PER_DOUBLING);
  const unit = exact < 128 || (step - 1) % PER_DOUBLING === 0 ? 1 : 10 ** Math.floor(Math.log10(exact) - 1);
  return Math.round(exact / unit) * unit;
};

const stepOf = (budget) => {
  if (budget === null) return TOP + 1;
  if (budget < LEAST) return budget ? 1 : 0;
  return Math.min(TOP, 1 + Math.round(Math.log2(budget / LEAST) * PER_DOUBLING));
};

const share = (budget) => `${(100 * stepOf(budget)) / (TOP + 1)}%`;

/** Tokens, null for no limit, undefined for what is no budget. */
export function parseBudget(text) {
  const plain = text.trim().toLowerCase().replaceAll(",", "");
  if (["", "∞", "inf", "-1", "none"].includes(plain)) return null;
  const thousand = plain.match(/^(\d+)k$/);
  if (thousand) return 1024 * Number(thousand[1]);
  return /^\d{1,9}$/.test(plain) ? Number(plain) : undefined;
}

export class Budget {
  /** The row of column `index`; `changed` is called whenever a person sets another value. */
  constructor(index, value, changed) {
    this.root = document.querySelector("#budget-row").content.firstElementChild.cloneNode(true);
    [this.slider, this.text] = this.root.children;
    const suffix = index === 1 ? "" : `-${index}`;
    this.slider.id = this.slider.dataset.testid = `budget${suffix}`;
    this.text.id = this.text.dataset.testid = `budget-value${suffix}`;
    this.slider.ariaLabel = `Thinking budget of column ${index}, slider`;
    this.text.ariaLabel = `Thinking budget of column ${index}, tokens`;
    this.slider.max = TOP + 1;
    this.value = value;
    this.slider.addEventListener("input", () => {
      this.value = budgetAt(Number(this.slider.value));
      changed();
    });
    this.text.addEventListener("input", () => {
      const budget = parseBudget(this.text.value);
      this.text.setCustomValidity(budget === undefined ? "A number of tokens, or ∞" : "");
      if (budget === undefined) return;
      this.#set(budget);
      changed();
    });
    this.text.addEventListener("blur", () => (this.value = this.budget));
  }

  get value() {
    return this.budget;
  }

  set value(budget) {
    this.#set(budget);
    this.text.value = budget === null ? "∞" : String(budget);
    this.text.setCustomValidity("");
  }

  #set(budget) {
    this.budget = budget;
    this.slider.value = stepOf(budget);
    this.slider.ariaValueText = budget === null ? "no limit" : `${budget} tokens`;
    this.slider.style.setProperty("--share", share(budget));
  }
}

/** The scale under the sliders. */
export function drawTicks(parent) {
  for (const [budget, name] of [...Object.entries(TICKS), [null, "∞"]]) {
    const tick = document.createElement("span");
    tick.textContent = name;
    tick.style.left = share(budget);
    parent.append(tick);
  }
}
