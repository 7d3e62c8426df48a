// Keys that a browser or a phone does not send: the keys panel, sticky Ctrl and Alt, and the soft keyboard.

import keysyms from "/assets/novnc/core/input/keysymdef.js";
import { h, icon, put } from "./dom.js";
import { t } from "./strings.js";

const KEYS = {
  escape: [0xff1b, "Escape"],
  tab: [0xff09, "Tab"],
  left: [0xff51, "ArrowLeft"],
  up: [0xff52, "ArrowUp"],
  right: [0xff53, "ArrowRight"],
  down: [0xff54, "ArrowDown"],
};
const MODIFIERS = { ctrl: [0xffe3, "ControlLeft"], alt: [0xffe9, "AltLeft"] };
const TYPED = { Backspace: 0xff08, Enter: 0xff0d, Tab: 0xff09, Escape: 0xff1b, Delete: 0xffff };
const ARROWS = { left: "←", up: "↑", right: "→", down: "↓" };

export class Keys {
  #held = new Set();
  #buttons = new Map();

  constructor(link) {
    this.link = link;
    this.root = h("div", { class: "keys", role: "toolbar", "aria-label": t("keys.label"), hidden: true });
    this.input = h("textarea", {
      class: "soft-keyboard",
      rows: 1,
      autocapitalize: "off",
      autocomplete: "off",
      autocorrect: "off",
      spellcheck: "false",
      "aria-label": t("keys.typing"),
    });
    this.input.value = " ";
    this.input.addEventListener("input", () => this.#typed());
    this.input.addEventListener("keydown", (event) => this.#pressed(event));
    const modifiers = Object.keys(MODIFIERS).map((key) => {
      const made = h(
        "button",
        { class: "button small", type: "button", "aria-pressed": "false", click: () => this.#toggle(key) },
        t(`keys.${key}`),
      );
      this.#buttons.set(key, made);
      return made;
    });
    const plain = ["escape", "tab"].map((key) =>
      h(
        "button",
        { class: "button small", type: "button", click: () => this.#send(...KEYS[key]) },
        t(`keys.${key}`),
      ),
    );
    const arrows = Object.keys(ARROWS).map((key) =>
      h(
        "button",
        {
          class: "button small square",
          type: "button",
          "aria-label": t(`keys.${key}`),
          click: () => this.#send(...KEYS[key]),
        },
        ARROWS[key],
      ),
    );
    const del = h(
      "button",
      { class: "button small", type: "button", click: () => this.link.rfb?.sendCtrlAltDel() },
      t("keys.ctrl_alt_del"),
    );
    const soft = h(
      "button",
      { class: "button small slim-only", type: "button", click: () => this.input.focus() },
      icon("keyboard"),
      t("keys.soft"),
    );
    this.fit = h(
      "button",
      { class: "button small slim-only", type: "button", "aria-pressed": "true", click: () => this.#fit() },
      t("keys.fit"),
    );
    this.move = h(
      "button",
      { class: "button small slim-only", type: "button", "aria-pressed": "false", click: () => this.#move() },
      t("keys.move"),
    );
    put(this.root, soft, ...modifiers, ...plain, ...arrows, del, this.fit, this.move, this.input);
    // A press must not take the keyboard away from the desktop (or from the soft keyboard).
    this.root.addEventListener("pointerdown", (event) => {
      if (event.target.closest("button") && event.target.closest("button") !== soft) event.preventDefault();
    });
  }

  /** Whether a phone shows the whole desktop, small; else a part of it in its own size. */
  get fits() {
    return this.fit.getAttribute("aria-pressed") === "true";
  }

  /** Whether a finger moves the picture instead of the pointer. */
  get moves() {
    return this.move.getAttribute("aria-pressed") === "true";
  }

  /** Show or hide the panel; returns whether it is shown. */
  toggle() {
    this.root.hidden = !this.root.hidden;
    if (this.root.hidden) this.release();
    return !this.root.hidden;
  }

  /** Let go of sticky keys, as after every loss. */
  release() {
    for (const key of [...this.#held]) this.#toggle(key);
  }

  #toggle(key) {
    const down = !this.#held.has(key);
    if (down) this.#held.add(key);
    else this.#held.delete(key);
    this.#buttons.get(key).setAttribute("aria-pressed", String(down));
    this.link.rfb?.sendKey(MODIFIERS[key][0], MODIFIERS[key][1], down);
  }

  #send(keysym, code) {
    this.link.rfb?.sendKey(keysym, code);
    this.release();
  }

  #typed() {
    const text = this.input.value;
    const fresh = text.startsWith(" ") ? text.slice(1) : "";
    if (text.length === 0) this.#send(TYPED.Backspace, "Backspace");
    for (const letter of fresh) {
      if (letter === "\n") this.#send(TYPED.Enter, "Enter");
      else this.#send(keysyms.lookup(letter.codePointAt(0)));
    }
    this.input.value = " ";
    this.input.setSelectionRange(1, 1);
  }

  #pressed(event) {
    if (event.key === "Backspace" || !(event.key in TYPED)) return; // phones tell Backspace by the text that is gone
    event.preventDefault();
    this.#send(TYPED[event.key], event.code);
  }

  #fit() {
    const on = !this.fits;
    this.fit.setAttribute("aria-pressed", String(on));
    if (this.link.rfb) this.link.rfb.scaleViewport = on;
  }

  #move() {
    const on = !this.moves;
    this.move.setAttribute("aria-pressed", String(on));
    if (this.link.rfb) this.link.rfb.dragViewport = on;
  }
}
