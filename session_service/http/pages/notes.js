// Toasts, and what screen readers are told: one polite and one assertive region per page, filled here only.

import { h, icon } from "./dom.js";
import { t } from "./strings.js";

const SHOWN_MS = 8_000;
let polite;
let assertive;
let place;

/** Tell a screen reader; `now` interrupts. */
export function announce(words, { now = false } = {}) {
  regions();
  const region = now ? assertive : polite;
  region.textContent = "";
  setTimeout(() => {
    region.textContent = words;
  }, 50); // a region must be seen empty, or the same words are not read again
}

/** Show one toast; `act` = {label, run} makes it stay until it is dismissed. */
export function toast(words, { state = "active", glyph = "circle-check", act = null } = {}) {
  if (!place) toastsIn(null);
  const close = () => box.remove();
  const box = h(
    "div",
    { class: `toast is-${state}` },
    icon(glyph),
    h("span", {}, words),
    act &&
      h(
        "button",
        {
          class: "button small",
          type: "button",
          click: () => {
            close();
            act.run();
          },
        },
        act.label,
      ),
    h(
      "button",
      { class: "button plain small square", type: "button", "aria-label": t("act.dismiss"), click: close },
      icon("x"),
    ),
  );
  place.replaceChildren(box);
  announce(box.querySelector("span").textContent);
  if (act) return close;
  let timer = setTimeout(close, SHOWN_MS);
  const stay = () => clearTimeout(timer);
  const leave = () => {
    stay();
    timer = setTimeout(close, SHOWN_MS / 2);
  };
  for (const event of ["pointerenter", "focusin"]) box.addEventListener(event, stay);
  for (const event of ["pointerleave", "focusout"]) box.addEventListener(event, leave);
  return close;
}

/** Show toasts at the top of an element, or at the foot of the page. */
export function toastsIn(element) {
  place?.remove();
  place = h("div", {
    class: element ? "float-top" : "float-foot",
    role: "region",
    "aria-label": t("notes.label"),
  });
  (element ?? document.body).append(place);
}

/** Take away what is shown, because it is not true any more. */
export function clearToasts() {
  place?.replaceChildren();
}

function regions() {
  if (!polite) {
    polite = h("div", { class: "sr", role: "status", "aria-live": "polite" });
    assertive = h("div", { class: "sr", role: "alert", "aria-live": "assertive" });
    document.body.append(polite, assertive);
  }
}
