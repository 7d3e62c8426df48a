// What sign-in and setup share: the form's frame, and the story of a lost connection told with the ruler.

import { largeRuler } from "./countdown.js";
import { h, icon, put } from "./dom.js";
import { mark } from "./frame.js";
import { t } from "./strings.js";

const STORY = [
  ["lost", "held", "hold"],
  ["back", "active", ""],
  ["away", "closing", ""],
  ["next", "closed", ""],
];

/** Fill the page: `body` is the form with its heading, `foot` one line under it. */
export function door(title, body, foot) {
  document.title = `${title} · ${t("product.name")}`;
  const main = document.querySelector("main");
  document.body.prepend(h("a", { class: "skip", href: "#main" }, t("nav.skip")));
  const [ruler, set] = largeRuler();
  set(0);
  const side = h(
    "aside",
    { class: "door-side", "aria-labelledby": "story" },
    h(
      "div",
      { class: "big-story" },
      h(
        "div",
        {},
        h("h2", { id: "story" }, t("story.title")),
        ruler,
        h("p", { class: "ruler-ends" }, h("span", {}, t("story.start")), h("span", {}, t("story.end"))),
      ),
      h(
        "ol",
        { class: "story" },
        STORY.map(([key, state, extra]) =>
          h(
            "li",
            {},
            h("span", { class: "when" }, t(`story.${key}_when`)),
            h("span", { class: `spine ${extra} is-${state}` }, icon(`st-${state}`)),
            h("p", { class: "text" }, h("b", {}, t(`story.${key}`)), h("span", {}, t(`story.${key}_more`))),
          ),
        ),
      ),
    ),
  );
  put(
    main,
    h(
      "section",
      { class: "door-form", "aria-labelledby": "t" },
      h("div", {}, mark(t("product.name"), "/")),
      h("div", { class: "body" }, ...body),
      foot,
    ),
    side,
  );
  main.hidden = false;
}

/** Return the line that says how the service is, as a page may know it before sign-in. */
export function statusLine() {
  const line = h("p", { class: "small muted row wrap" });
  fetch("/api/v1/status", { cache: "no-store" })
    .then((response) => response.json())
    .then(
      (status) => {
        const well = status.ready && status.storage.usable !== false;
        put(
          line,
          h(
            "span",
            { class: "row" },
            icon(well ? "circle-check" : "triangle-alert"),
            t(well ? "status.well" : status.ready ? "status.storage" : "status.not_ready"),
          ),
        );
      },
      () => put(line, h("span", { class: "row" }, icon("wifi-off"), t("status.no_answer"))),
    );
  return line;
}

/** Put an error under a field, or take it away. */
export function fieldError(holder, message) {
  const input = holder.querySelector("input");
  holder.querySelector(".error")?.remove();
  if (!message) {
    input.removeAttribute("aria-invalid");
    return;
  }
  const id = `${input.id}-error`;
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-describedby", id);
  holder.append(h("p", { class: "error", id, role: "alert" }, icon("octagon-alert"), h("span", {}, message)));
  input.focus();
}
