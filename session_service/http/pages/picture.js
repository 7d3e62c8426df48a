// How the picture is shown on this device: its size, its quality, and how long an answer takes. A dialog from the bar's
// menu. Choices are kept for this browser; they hold nothing of a session.

import { h, text } from "./dom.js";
import { t } from "./strings.js";

const KEPT = "picture";
const LOOK_MS = 1_000;
const QUALITIES = { usual: [6, 2], sharp: [9, 2], thrifty: [2, 9] }; // noVNC's quality and compression, 0 to 9
const SIZES = ["fit", "scale", "own"];

export class Picture {
  #narrow = false;
  #mayResize = true;
  #chosen = { quality: "usual", size: "fit", ...kept() };

  constructor(link) {
    this.link = link;
  }

  /** Set up a viewer as it was chosen. A phone has its own choice of size, beside its keys. */
  setUp(rfb, { narrow, mayResize }) {
    this.#narrow = narrow;
    this.#mayResize = mayResize;
    const [quality, compression] = QUALITIES[this.#chosen.quality] ?? QUALITIES.usual;
    rfb.qualityLevel = quality;
    rfb.compressionLevel = compression;
    const fits = this.#chosen.size === "fit" && mayResize;
    rfb.resizeSession = fits && !narrow;
    if (narrow) return;
    rfb.scaleViewport = this.#chosen.size === "scale" || (this.#chosen.size === "fit" && !mayResize);
    rfb.clipViewport = this.#chosen.size === "own";
  }

  /** Show the dialog. */
  open() {
    const latency = h("p", { class: "small soft", role: "status" });
    const show = () => text(latency, this.#latency());
    const heading = h("h1", { id: "picture-t", tabindex: "-1" }, t("picture.title"));
    const close = h("button", { class: "button first" }, t("act.close"));
    const dialog = h(
      "dialog",
      { "aria-labelledby": "picture-t" },
      h(
        "form",
        { class: "sheet", method: "dialog" },
        heading,
        !this.#narrow && this.#choice("size", SIZES),
        this.#choice("quality", Object.keys(QUALITIES)),
        latency,
        h("div", { class: "buttons" }, close),
      ),
    );
    document.body.append(dialog);
    show();
    const timer = setInterval(show, LOOK_MS);
    dialog.addEventListener("close", () => {
      clearInterval(timer);
      dialog.remove();
      this.link.rfb?.focus();
    });
    dialog.showModal();
    heading.focus();
  }

  #latency() {
    const ms = this.link.latencyMs;
    return ms === null ? t("picture.latency_unknown") : t("picture.latency", { ms: Math.max(1, Math.round(ms)) });
  }

  #choice(key, values) {
    const choose = (event) => {
      this.#chosen[key] = event.target.value;
      keep(this.#chosen);
      if (this.link.rfb) this.setUp(this.link.rfb, { narrow: this.#narrow, mayResize: this.#mayResize });
    };
    return h(
      "fieldset",
      { class: "choices" },
      h("legend", { class: "label" }, t(`picture.${key}`)),
      values.map((value) =>
        h(
          "label",
          { class: "choice small-choice" },
          h("input", { type: "radio", name: key, value, checked: this.#chosen[key] === value, change: choose }),
          h("span", {}, t(`picture.${key}_${value}`)),
        ),
      ),
    );
  }
}

function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(KEPT) ?? "{}");
    return {
      ...(found.quality in QUALITIES && { quality: found.quality }),
      ...(SIZES.includes(found.size) && { size: found.size }),
    };
  } catch {
    return {}; // no storage, or not ours
  }
}

function keep(chosen) {
  try {
    localStorage.setItem(KEPT, JSON.stringify(chosen));
  } catch {
    /* it holds for this page */
  }
}
