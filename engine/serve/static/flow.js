// Thinking as it is shown: text that only grows, chips where the engine wrote, marks where columns part.

const PIECE = 4096; // characters per text node, so that appending stays cheap however long thinking gets

/** An element with a class and text; model output goes through here and through text nodes, never through markup. */
export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

const isChip = (node) => node instanceof Element && node.className === "chip";

/** Puts `text` at the end of `parent`; white space behind a chip belongs to it. */
export function appendText(parent, text) {
  const last = parent.lastChild;
  if (isChip(last)) {
    const kept = last.textContent.trimEnd();
    text = last.textContent.slice(kept.length) + text;
    last.textContent = kept;
    last.length = kept.length;
  }
  if (last instanceof Text && last.length < PIECE) last.appendData(text);
  else parent.append(text);
}

/** Puts what the engine wrote at the end of `parent`: one chip, in however many pieces it comes. */
export function appendChip(parent, text) {
  if (!isChip(parent.lastChild)) {
    const core = text.trimStart();
    if (core.length < text.length) appendText(parent, text.slice(0, text.length - core.length));
    if (!core) return;
    text = core;
    parent.append(element("mark", "chip"));
  }
  const chip = parent.lastChild;
  chip.append(text);
  chip.length = chip.textContent.length; // as text nodes have it
}

export class Flow {
  /** In `pane`; `button` leads back to its end for who scrolled away from there. */
  constructor(pane, button) {
    this.shared = element("span", "shared"); // what another column says too
    this.rest = element("span", "rest");
    this.pane = pane;
    this.button = button;
    this.text = "";
    this.sharedLength = 0;
    pane.replaceChildren(this.shared, this.rest);
    this.top = 0;
    this.#follow(true);
    pane.addEventListener("wheel", ({ deltaY }) => deltaY < 0 && pane.scrollTop > 0 && this.#follow(false), {
      passive: true,
    });
    pane.addEventListener("scroll", () => {
      const { scrollTop, scrollHeight, clientHeight } = pane;
      const left = scrollHeight - scrollTop - clientHeight;
      if (scrollTop < this.top && left > 1) this.#follow(false);
      else if (scrollTop > this.top && left < 8) this.#follow(true);
      this.top = scrollTop;
    });
    button.onclick = () => {
      this.#follow(true);
      this.scroll();
    };
  }

  #follow(on) {
    this.following = on;
    this.button.hidden = on;
  }

  /** Shows the end, unless the reader scrolled up. */
  scroll() {
    if (this.following) this.pane.scrollTop = this.pane.scrollHeight;
    this.top = this.pane.scrollTop;
  }

  append(text, forced) {
    if (!this.text) text = text.trimStart(); // templates begin thinking on a line of its own
    this.text += text;
    (forced ? appendChip : appendText)(this.rest, text);
  }

  /** Something in its place that is no part of the text. */
  put(node) {
    this.rest.append(node);
  }

  /** Greys the first `length` characters; there are never fewer than before. */
  share(length) {
    while (this.sharedLength < length && this.rest.firstChild) {
      const node = this.rest.firstChild;
      const missing = length - this.sharedLength;
      if (isChip(node) && node === this.rest.lastChild) return; // it may still grow
      if (node instanceof Text && node.length > missing) {
        appendText(this.shared, node.data.slice(0, missing));
        node.deleteData(0, missing);
        this.sharedLength = length;
      } else if ((node.length ?? 0) > missing) {
        return;
      } else {
        this.sharedLength += node.length ?? 0;
        this.shared.append(node);
      }
    }
  }

  /** Puts `node` behind the first `at` characters. */
  mark(at, node) {
    for (const part of [this.shared, this.rest]) {
      for (const child of part.childNodes) {
        const length = child.length ?? 0;
        if (at < length) return child instanceof Text ? child.splitText(at).before(node) : child.before(node);
        at -= length;
      }
    }
    this.rest.append(node);
  }
}
