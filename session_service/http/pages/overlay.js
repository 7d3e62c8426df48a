// The overlay of the screen page: one dialog whose content changes with the moment. It keeps its focus, gives the
// keyboard to its heading and not to a button, and cannot be thrown away where it holds the only answer.

import { h, put } from "./dom.js";

export class Overlay {
  #key = "";
  #wanted = false;
  #firm = true;
  #cancel = null;

  constructor() {
    this.dialog = h("dialog", {
      class: "seat-note",
      role: "alertdialog",
      "aria-labelledby": "overlay-t",
      "aria-describedby": "overlay-d",
    });
    document.body.append(this.dialog);
    this.dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      if (!this.#firm) this.#cancel?.();
    });
    // Some browsers close a dialog on the second Escape even if the first was refused: it is shown again.
    this.dialog.addEventListener("close", () => {
      if (this.#wanted) this.#open();
    });
  }

  get isOpen() {
    return this.#wanted;
  }

  /** The moment that is shown, "" when nothing is. */
  get moment() {
    return this.#wanted ? this.dialog.dataset.moment : "";
  }

  /**
   * Show a moment. `key` says when the content is another one; `build` returns {head, title, lede, parts, buttons,
   * status, details}. `cancel` is what Escape does; without it the overlay is firm.
   */
  show(moment, key, build, cancel = null) {
    const whole = `${moment} ${key}`;
    const changed = moment !== this.dialog.dataset.moment || !this.#wanted;
    this.#firm = cancel === null;
    this.#cancel = cancel;
    this.dialog.setAttribute("closedby", this.#firm ? "none" : "closerequest");
    if (whole !== this.#key || !this.#wanted) {
      const focused = document.activeElement?.dataset?.k;
      this.#key = whole;
      this.dialog.dataset.moment = moment;
      this.#fill(build());
      if (!this.#wanted) this.#open();
      const again = !changed && focused && this.dialog.querySelector(`[data-k="${focused}"]`);
      (again || this.dialog.querySelector("h1")).focus({ preventScroll: true });
    }
  }

  hide() {
    this.#wanted = false;
    this.#key = "";
    if (this.dialog.open) this.dialog.close();
  }

  #open() {
    this.#wanted = true;
    if (!this.dialog.open) this.dialog.showModal();
    this.dialog.querySelector("h1")?.focus({ preventScroll: true });
  }

  #fill({ head, title, lede = "", parts = [], buttons = [], status = null, details = null }) {
    put(
      this.dialog,
      h(
        "div",
        { class: "sheet" },
        h("div", {}, h("p", { class: "row wrap" }, ...head)),
        h(
          "div",
          {},
          h("h1", { id: "overlay-t", tabindex: "-1" }, title),
          h("p", { class: "lede", id: "overlay-d" }, lede),
        ),
        ...parts,
        buttons.length > 0 && h("div", { class: "buttons" }, ...buttons),
        status && h("p", { class: "status", role: "status" }, ...status),
        details,
      ),
    );
  }
}
