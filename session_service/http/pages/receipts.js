// All receipts of one's desktops, newest first.

import { all, get, words } from "./api.js";
import { h, icon, put } from "./dom.js";
import { frame } from "./frame.js";
import { receiptLine } from "./receipts-list.js";
import { t } from "./strings.js";

const RECEIPTS_MAX = 500;

await frame("receipts", t("receipts.title"));
const main = document.querySelector("main");

try {
  const [items, workspaces] = await Promise.all([
    all("/receipts?mine=true", RECEIPTS_MAX),
    get("/workspaces?limit=200"),
  ]);
  const names = new Map(workspaces.items.map((workspace) => [workspace.id, workspace.name]));
  put(
    main,
    h(
      "div",
      { class: "stack narrow" },
      h("h1", {}, t("receipts.title")),
      h(
        "div",
        { class: "card pad" },
        items.length > 0
          ? h(
              "ul",
              { class: "list small" },
              items.map((each) => receiptLine(each, names)),
            )
          : h("div", { class: "empty" }, icon("receipt-text"), h("p", {}, t("receipts.none"))),
      ),
    ),
  );
} catch (problem) {
  put(
    main,
    h("h1", {}, t("receipts.title")),
    h("div", { class: "notice is-alarm", role: "alert" }, icon("octagon-alert"), h("p", {}, words(problem))),
  );
}
