// What people see at an address that is not for them or is not there. The server sends it with the true status.

import { h, icon, put } from "./dom.js";
import { mark } from "./frame.js";
import { t } from "./strings.js";

document.title = `${t("nothing.title")} · ${t("product.name")}`;
const main = document.querySelector("main");
document.body.prepend(
  h("header", { class: "top" }, h("div", { class: "top-in" }, mark(t("product.name"), "/"))),
);
put(
  main,
  h(
    "div",
    { class: "empty" },
    icon("info"),
    h("h1", {}, t("nothing.title")),
    h("p", {}, t("nothing.lede")),
    h("a", { class: "button first", href: "/desktop" }, t("nav.desktops")),
  ),
);
main.hidden = false;
