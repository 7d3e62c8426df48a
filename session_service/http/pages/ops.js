// The frame of the operators' pages: the side bar and who is signed in.

import { get } from "./api.js";
import { h, icon } from "./dom.js";
import { accountMenu, mark } from "./frame.js";
import { name, t } from "./strings.js";

const PLACES = [
  ["fleet", "/operator", "monitor"],
  ["people", "/people", "users"],
  ["own", "/desktop", "user-round"],
];

/** Build the frame around `main`; returns who is signed in and the place for the count of alarms. */
export async function opsFrame(current, title) {
  document.title = `${title} · ${t("ops.title")}`;
  const main = document.querySelector("main");
  const me = await get("/me");
  const administrator = me.user.role === "administrator";
  const places = PLACES.filter(([key]) => key !== "people" || administrator);
  const account = h(
    "button",
    {
      class: "button plain small",
      type: "button",
      "aria-haspopup": "menu",
      "aria-expanded": "false",
      click: () => accountMenu(account, me),
    },
    icon("user-round"),
    name(me.user.name),
  );
  const side = h(
    "header",
    { class: "side" },
    mark(t("ops.title"), "/operator"),
    h(
      "nav",
      { "aria-label": t("ops.title") },
      h(
        "ul",
        {},
        places.map(([key, href, glyph]) =>
          h(
            "li",
            {},
            h("a", { href, "aria-current": key === current ? "page" : null }, icon(glyph), t(`ops.${key}`)),
          ),
        ),
      ),
    ),
    h(
      "div",
      { class: "who small muted" },
      h("p", {}, account),
      h("p", {}, t(administrator ? "ops.administrator" : "ops.operator")),
    ),
  );
  const ops = h("div", { class: "ops" }, side);
  document.body.prepend(h("a", { class: "skip", href: "#main" }, t("nav.skip")), ops);
  ops.append(main);
  main.hidden = false;
  return me;
}
