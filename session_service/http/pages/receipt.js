// One receipt: a sheet that prints. What was saved and checked, what happened before, and how to check it yourself.

import { all, get, words } from "./api.js";
import { start } from "./acts.js";
import { busyWhile } from "./dialogs.js";
import { h, icon, put } from "./dom.js";
import { frame } from "./frame.js";
import { toast } from "./notes.js";
import { badge, button, facts } from "./parts.js";
import { endedWords, filesWords, provedBy, receiptLine } from "./receipts-list.js";
import { has, name, t } from "./strings.js";
import * as times from "./times.js";

const sessionId = location.pathname.split("/").pop();
await frame("receipts", t("receipt.word"));
const main = document.querySelector("main");

function happened(body) {
  const held = body.lost_at_ms && body.cause === "hold";
  const rows = [
    [body.created_at_ms, "st-starting", "starting", t("receipt.started"), ""],
    body.lost_at_ms && [body.lost_at_ms, "st-held", "held", t("receipt.lost"), causeOf(body)],
    [body.asked_at_ms, "st-closing", "closing", t("receipt.asked"), ""],
    body.c1 && [
      body.c1.saved_as_of_ms,
      "check",
      "active",
      t("receipt.first"),
      body.c1.entries === undefined
        ? t(`closing.because_${body.cause}`)
        : `${t(`closing.because_${body.cause}`)} ` +
          `${times.entries(body.c1.entries)}, ${times.size(body.c1.bytes)}`,
    ],
    body.c2 && [
      body.c2.saved_as_of_ms,
      "check",
      "active",
      t("receipt.final"),
      t("receipt.frozen", { method: body.freeze_method ?? t("fact.unknown") }),
    ],
    [
      body.receipt_at_ms,
      "st-closed",
      "closed",
      t("receipt.closed"),
      held
        ? t("receipt.waited", {
            time: times.duration(((body.asked_at_ms ?? body.receipt_at_ms) - body.lost_at_ms) / 1000),
          })
        : "",
    ],
  ];
  return h(
    "ol",
    { class: "log" },
    rows
      .filter((row) => row && row[0])
      .sort((a, b) => a[0] - b[0])
      .map(([at, glyph, state, title, more]) =>
        h(
          "li",
          { class: `is-${state}` },
          h("time", {}, times.clock(at)),
          icon(glyph),
          h("span", {}, h("b", { class: "strong" }, title), more && h("span", { class: "soft" }, more)),
        ),
      ),
  );
}

function causeOf(body) {
  const key = `cause.${body.loss_cause}`;
  return t(has(key) ? key : "cause.unknown");
}

function unreadable(proof) {
  if (!proof || proof.unreadable === undefined) return t("fact.unknown");
  if (proof.unreadable.length === 0) return t("receipt.none");
  return h(
    "ul",
    {},
    proof.unreadable.map((path) => h("li", {}, name(path))),
  );
}

function sheet(receipt, workspace) {
  const { body } = receipt;
  const proof = provedBy(body);
  const saved = proof?.saved_as_of_ms ?? body.receipt_at_ms;
  const whole = proof?.unreadable?.length === 0;
  const values = {
    entries: proof?.entries === undefined ? "" : times.entries(proof.entries),
    time: times.clock(saved),
    day: times.date(saved),
  };
  return h(
    "article",
    { class: "card sheet-paper stack", "aria-labelledby": "rc" },
    h(
      "div",
      { class: "head" },
      h(
        "p",
        { class: "small muted" },
        `${t("receipt.word")} `,
        h("span", { class: "id" }, receipt.session_id),
      ),
      h(
        "span",
        { class: "push row hide-s" },
        button(t("receipt.pdf"), () => print(), { kind: "small", lead: "download" }),
      ),
    ),
    h(
      "div",
      {},
      h("p", {}, badge("closed", t(whole ? "receipt.badge" : "receipt.badge_part"))),
      h("h1", { class: "big", id: "rc" }, t(whole ? "receipt.headline" : "receipt.headline_part", values)),
      h("p", { class: "soft" }, t("receipt.lede", { time: times.clock(body.receipt_at_ms) })),
    ),
    facts(
      [
        t("receipt.desktop"),
        h(
          "span",
          {},
          workspace ? name(workspace.name) : t("receipts.workspace"),
          `, ${t("receipt.started_at", { time: times.moment(body.created_at_ms) })}`,
        ),
      ],
      [t("receipt.end"), endedWords(body)],
      proof?.entries !== undefined && [
        t("fact.files"),
        `${filesWords(proof)} (${times.count(proof.bytes)} ${t("receipt.bytes")})`,
      ],
      [t("receipt.unreadable"), unreadable(proof)],
      body.accepted_paths.length > 0 && [
        t("receipt.accepted"),
        h(
          "ul",
          {},
          body.accepted_paths.map((path) => h("li", {}, name(path))),
        ),
      ],
      [
        t("receipt.programs"),
        body.refused_windows.length > 0
          ? t("receipt.refused", { n: body.refused_windows.length })
          : t("receipt.not_kept"),
      ],
      proof && [t("receipt.checkpoint"), h("span", { class: "id" }, String(proof.seq))],
      proof && [t("receipt.hash"), h("span", { class: "id" }, proof.hash)],
    ),
    h("section", { class: "stack-s" }, h("h2", {}, t("receipt.how")), happened(body)),
    proof &&
      h(
        "details",
        { class: "more" },
        h("summary", {}, t("receipt.check")),
        h("p", {}, t("receipt.check_more")),
        h(
          "p",
          { class: "id code" },
          `session-service checkpoints verify ${receipt.workspace_id} --level full`,
        ),
      ),
  );
}

async function draw() {
  const [receipt, workspaces, others] = await Promise.all([
    get(`/receipts/${sessionId}`),
    get("/workspaces?limit=200"),
    all("/receipts?mine=true", 12),
  ]);
  const names = new Map(workspaces.items.map((each) => [each.id, each.name]));
  const workspace = workspaces.items.find((each) => each.id === receipt.workspace_id);
  document.title = `${t("receipt.word")} ${receipt.session_id} · ${t("product.name")}`;
  const go = button(
    t("act.start_files"),
    async () => {
      try {
        await busyWhile(go, t("start.busy"), () => start(workspace));
      } catch (problem) {
        toast(words(problem), { state: "alarm", glyph: "octagon-alert" });
      }
    },
    { kind: "first" },
  );
  const earlier = others.filter((each) => each.session_id !== sessionId).slice(0, 5);
  const { c1, c2 } = receipt.body;
  const seq = (c2 ?? c1)?.seq;
  put(
    main,
    h(
      "div",
      { class: "split" },
      sheet(receipt, workspace),
      h(
        "aside",
        { class: "stack", "aria-label": t("receipt.more") },
        earlier.length > 0 &&
          h(
            "section",
            { class: "card pad stack-s" },
            h("h2", {}, t("receipt.earlier")),
            h(
              "ul",
              { class: "list small" },
              earlier.map((each) => receiptLine(each, names)),
            ),
          ),
        workspace && go,
        workspace &&
          h(
            "a",
            { class: "button", href: `/files?workspace=${workspace.id}${seq ? `&seq=${seq}` : ""}` },
            t("act.browse"),
          ),
      ),
    ),
  );
}

try {
  await draw();
} catch (problem) {
  put(
    main,
    h(
      "div",
      { class: "empty" },
      icon("receipt-text"),
      h("h1", {}, t(problem.code === "not_found" ? "receipt.not_found" : "receipt.failed")),
      h("p", {}, problem.code === "not_found" ? t("receipt.not_found_more") : words(problem)),
      h("a", { class: "button", href: "/receipts" }, t("receipts.all")),
    ),
  );
}
