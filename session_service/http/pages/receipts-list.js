// One receipt as a line of a list.

import { h, icon } from "./dom.js";
import { name, t } from "./strings.js";
import * as times from "./times.js";

/** Return the checkpoint on which a receipt rests: the final one, else the first of the close. */
export function provedBy(body) {
  return body.c2 ?? body.c1 ?? null;
}

/** Return how much a checkpoint holds, and what is missing in it. */
export function filesWords(proof) {
  const bad = proof.unreadable.length;
  const values = {
    entries: times.entries(proof.entries),
    size: times.size(proof.bytes),
    n: bad,
    bad: times.files(bad),
  };
  return t(bad ? "fact.files_bad" : "fact.files_good", values);
}

/** Return how a desktop came to its end, in a few words. */
export function endedWords(body) {
  const key = {
    hold: "ended.hold",
    user: "ended.user",
    operator: "ended.operator",
    death: "ended.death",
    idle: "ended.idle",
    length: "ended.length",
  }[body.cause];
  return key ? t(key) : "";
}

/** Return a line; `names` maps workspaces to their names. */
export function receiptLine(receipt, names) {
  const { body } = receipt;
  const proof = provedBy(body);
  const saved = proof?.saved_as_of_ms ?? body.receipt_at_ms ?? Date.parse(receipt.written_at);
  const parts = [
    times.moment(saved),
    proof?.entries !== undefined ? `${times.entries(proof.entries)}, ${times.size(proof.bytes)}` : "",
    endedWords(body),
  ];
  return h(
    "li",
    {},
    icon("receipt-text", "lead"),
    h(
      "div",
      { class: "grow" },
      h("b", { class: "strong" }, name(names.get(receipt.workspace_id) ?? t("receipts.workspace"))),
      h("br"),
      h("span", { class: "soft" }, parts.filter(Boolean).join(" · ")),
    ),
    h(
      "a",
      { href: `/receipts/${receipt.session_id}` },
      t("receipts.view"),
      h("span", { class: "sr" }, ` ${t("receipts.of", { time: times.moment(saved) })}`),
    ),
  );
}
