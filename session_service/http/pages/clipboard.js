// The clipboard panel: what the desktop copied last, and a text to give to it. Works without any permission of the
// browser; where the browser allows it, what is copied in the desktop goes to this device's clipboard by itself.

import { h } from "./dom.js";
import { toast } from "./notes.js";
import { t } from "./strings.js";

const TEXT_LENGTH_MAX = 1_000_000;

export class Clipboard {
  constructor(link, screen) {
    this.link = link;
    this.area = h("textarea", {
      class: "input",
      rows: 6,
      id: "clip",
      spellcheck: "false",
      maxlength: TEXT_LENGTH_MAX,
    });
    const give = h(
      "button",
      { class: "button first small", type: "button", click: () => this.#give() },
      t("clip.give"),
    );
    const take = h(
      "button",
      { class: "button small", type: "button", click: () => this.#take() },
      t("clip.take"),
    );
    this.root = h(
      "section",
      { class: "panel card pad stack-s", hidden: true, "aria-label": t("clip.label") },
      h("label", { class: "label", for: "clip" }, t("clip.text")),
      this.area,
      h("p", { class: "small muted" }, t("clip.hint")),
      h("div", { class: "row wrap" }, give, take),
    );
    this.root.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        this.toggle();
        link.rfb?.focus();
      }
    });
    screen.append(this.root);
    link.addEventListener("clipboard", (event) => {
      this.area.value = event.detail.slice(0, TEXT_LENGTH_MAX);
      navigator.clipboard?.writeText(event.detail).catch(() => {}); // refused: the panel has it
    });
  }

  /** Show or hide the panel; returns whether it is shown. */
  toggle() {
    this.root.hidden = !this.root.hidden;
    if (!this.root.hidden) this.area.focus();
    return !this.root.hidden;
  }

  #give() {
    if (!this.link.rfb) return;
    this.link.rfb.clipboardPasteFrom(this.area.value);
    toast(t("clip.given"));
  }

  async #take() {
    this.area.select();
    try {
      await navigator.clipboard.writeText(this.area.value);
      toast(t("clip.taken"));
    } catch {
      toast(t("clip.refused"), { state: "held", glyph: "info" });
    }
  }
}
