// The fleet: every open session, live. Alarms on top, then figures, then the table, worst first. Changes are put in
// once a second; the order changes only while nobody points at the table or is in it.

import { leftOf, smallRuler } from "./countdown.js";
import { menu } from "./dialogs.js";
import { h, icon, put, text } from "./dom.js";
import { actsOn, explain } from "./fleet-acts.js";
import { Live } from "./live.js";
import { announce } from "./notes.js";
import { opsFrame } from "./ops.js";
import { isLate, isWaiting, savedChip, stateWord } from "./parts.js";
import { secondStore } from "./second-store.js";
import { has, name, t } from "./strings.js";
import * as times from "./times.js";

const ROWS_SHOWN = 80;
const SOON_S = 300;
const FILTERS = {
  all: () => true,
  look: (session) => needsLook(session),
  held: (session) => session.state === "held",
  closing: (session) => session.state === "closing",
  active: (session) => session.state === "active" || session.state === "starting",
};
const SORTS = {
  urgent: (a, b) =>
    urgency(a) - urgency(b) ||
    (leftOf(a) ?? Infinity) - (leftOf(b) ?? Infinity) ||
    (a.created_at < b.created_at ? -1 : 1),
  left: (a, b) => (leftOf(a) ?? Infinity) - (leftOf(b) ?? Infinity),
  risk: (a, b) => (b.pending_bytes ?? -1) - (a.pending_bytes ?? -1),
  age: (a, b) => (a.created_at < b.created_at ? -1 : 1),
};

await opsFrame("fleet", t("ops.fleet"));
const live = new Live();
const main = document.querySelector("main");
const rows = new Map();
let filter = "all";
let sort = "urgent";
let wanted = "";
let limit = ROWS_SHOWN;
let order = [];
let pending = false;

const count = h("span", { class: "small muted" });
const state = h("span", { class: "small muted push row" });
const alarms = h("div", { class: "stack-s" });
const figures = h("dl", { class: "card figures-row" });
const pills = h("div", { class: "pills", role: "group", "aria-label": t("column.state") });
const search = h("input", { class: "input small", type: "search", placeholder: t("fleet.placeholder") });
const sorter = h(
  "select",
  { class: "input small" },
  Object.keys(SORTS).map((key) => h("option", { value: key }, t(`sort.${key}`))),
);
const news = h("button", { class: "button small", type: "button", hidden: true });
const body = h("tbody", { role: "rowgroup" });
const CAUSES_SHOWN_MAX = 3; // the table has each session's own
const COLUMNS = ["account", "state", "saved", "left", "cause", "workspace", "device", "age", "action"];
const table = h(
  "table",
  { class: "table rows", role: "table" },
  h(
    "thead",
    { role: "rowgroup" },
    h(
      "tr",
      { role: "row" },
      COLUMNS.map((key) =>
        h(
          "th",
          { role: "columnheader", scope: "col", class: key === "age" ? "num" : null },
          key === "action" ? h("span", { class: "sr" }, t("column.action")) : t(`column.${key}`),
        ),
      ),
    ),
  ),
  body,
);
const scroll = h(
  "div",
  { class: "scroll", tabindex: "0", role: "region", "aria-label": t("fleet.table") },
  table,
);
const foot = h("div", {});
put(
  main,
  h("div", { class: "head" }, h("h1", {}, t("ops.fleet")), count, state),
  alarms,
  figures,
  secondStore(),
  h(
    "section",
    { class: "card fleet", "aria-label": t("fleet.sessions") },
    h(
      "div",
      { class: "bar" },
      h("label", { class: "search" }, h("span", { class: "sr" }, t("fleet.search")), icon("search"), search),
      pills,
      h("label", { class: "row small soft hide-s" }, t("fleet.sort"), sorter),
      news,
      h("span", { class: "small muted push hide-s" }, t("fleet.zone", { zone: times.zone() })),
    ),
    scroll,
    foot,
  ),
);

// ---------- what needs a person ----------

function needsLook(session) {
  return (
    isWaiting(session) ||
    isLate(session) ||
    (session.state === "held" && leftOf(session) < Math.min(SOON_S, session.hold_s / 6)) ||
    (session.state === "starting" && session.step_error)
  );
}

function urgency(session) {
  if (isWaiting(session)) return 0;
  if (isLate(session)) return 1;
  if (session.state === "starting" && session.step_error) return 2;
  if (session.state === "held") return 3;
  return { closing: 4, starting: 5, active: 6 }[session.state] ?? 7;
}

function open() {
  return [...live.sessions.values()].filter((session) => session.state !== "closed");
}

function matches(session) {
  const words =
    `${session.user.name} ${session.workspace.name} ${session.id} ${session.loss_cause ?? ""} ${inWords(session.loss_cause)} ${session.device_label} ${session.address ?? ""} ${session.node_id ?? ""}`.toLowerCase();
  return FILTERS[filter](session) && words.includes(wanted);
}

// ---------- drawing ----------

function draw() {
  const sessions = open();
  drawState(sessions);
  drawAlarms();
  drawFigures(sessions);
  drawPills(sessions);
  drawTable(sessions.filter(matches));
}

function drawState(sessions) {
  text(
    count,
    live.known ? t("fleet.count", { n: sessions.length, count: times.count(sessions.length) }) : "",
  );
  const fresh = live.fresh;
  const heard = live.heard ? times.clock(live.heard) : "";
  if (state.dataset.fresh !== String(fresh)) {
    state.dataset.fresh = String(fresh);
    if (!fresh && live.heard) announce(t("fleet.not_live", { time: heard }), { now: true });
    put(
      state,
      fresh
        ? stateWord("active", t("fleet.live"))
        : stateWord("alarm", live.heard ? t("fleet.not_live", { time: heard }) : t("fleet.connecting")),
      fresh && h("span", {}),
    );
  }
  if (fresh) text(state.lastChild, t("fleet.updated", { time: heard }));
}

function drawAlarms() {
  const key = JSON.stringify(live.alarms);
  if (alarms.dataset.key === key) return;
  alarms.dataset.key = key;
  put(
    alarms,
    ...live.alarms.map((alarm) =>
      h(
        "div",
        { class: "notice is-alarm", role: "region", "aria-label": t("alarm.label") },
        icon("st-alarm"),
        h(
          "p",
          {},
          h("b", {}, alarmTitle(alarm)),
          ` ${alarm.detail} `,
          h("span", { class: "soft" }, alarm.action),
        ),
        h(
          "span",
          { class: "small muted push nowrap" },
          t("alarm.since", { time: times.moment(alarm.since) }),
        ),
        alarm.session_id &&
          h(
            "button",
            { class: "button small", type: "button", click: () => show(alarm.session_id) },
            t("fleet.explain"),
          ),
      ),
    ),
  );
}

function alarmTitle(alarm) {
  const session = alarm.session_id && live.sessions.get(alarm.session_id);
  const kind = has(`alarm.${alarm.kind}`) ? t(`alarm.${alarm.kind}`) : alarm.kind;
  return session ? `${kind} (${session.user.name}, ${session.workspace.name}).` : `${kind}.`;
}

function drawFigures(sessions) {
  const by = (state_) => sessions.filter((session) => session.state === state_).length;
  const risky = sessions.filter((session) => session.pending_files || isWaiting(session));
  const risk = risky.reduce((sum, session) => sum + (session.pending_bytes ?? 0), 0);
  const waiting = sessions.filter(isWaiting).length;
  const lags = sessions
    .filter((session) => session.pending_files && session.saved_as_of)
    .map((session) => (Date.now() - Date.parse(session.saved_as_of)) / 1000);
  const data = [
    ["active", "st-active", "is-active", by("active"), ""],
    ["held", "st-held", "is-held", by("held"), causes(sessions)],
    ["starting", "st-starting", "is-starting", by("starting"), ""],
    [
      "closing",
      "st-closing",
      "is-closing",
      by("closing"),
      waiting ? t("figure.waiting", { n: waiting }) : "",
    ],
    ["risk", "st-alarm", "is-alarm", risky.length, risk ? times.size(risk) : ""],
    [
      "lag",
      null,
      "",
      lags.length ? t("figure.seconds", { n: Math.round(Math.max(...lags)) }) : t("figure.none"),
      "",
    ],
    ["alarms", "st-alarm", "is-alarm", live.alarms.length, ""],
  ];
  const key = JSON.stringify(data);
  if (figures.dataset.key === key) return;
  figures.dataset.key = key;
  put(
    figures,
    ...data.map(([name_, glyph, tone, value, more]) =>
      h(
        "div",
        {},
        h("dt", { class: tone }, glyph && icon(glyph), t(`figure.${name_}`)),
        h(
          "dd",
          {},
          typeof value === "number" ? times.count(value) : value,
          more && " ",
          more && h("small", {}, more),
        ),
      ),
    ),
  );
}

/** Return a cause as people read it; figures and the API have it with underscores. */
function inWords(cause) {
  return (cause ?? "").replaceAll("_", " ");
}

/** Return why the clients of held desktops were lost, the commonest causes first. */
function causes(sessions) {
  const counts = new Map();
  for (const { state: state_, loss_cause } of sessions)
    if (state_ === "held") counts.set(loss_cause ?? "unknown", (counts.get(loss_cause ?? "unknown") ?? 0) + 1);
  return [...counts]
    .sort(([, a], [, b]) => b - a)
    .slice(0, CAUSES_SHOWN_MAX)
    .map(([cause, n]) => t(`losses.${cause}`, { n: times.count(n) }))
    .join(", ");
}

function drawPills(sessions) {
  const data = Object.keys(FILTERS).map((key) => [key, sessions.filter(FILTERS[key]).length]);
  const key = JSON.stringify([data, filter]);
  if (pills.dataset.key === key) return;
  const focused = document.activeElement?.dataset?.filter;
  pills.dataset.key = key;
  put(
    pills,
    ...data.map(([each, n]) =>
      h(
        "button",
        {
          type: "button",
          "aria-pressed": String(each === filter),
          "data-filter": each,
          click: () => {
            filter = each;
            again();
          },
        },
        t(`filter.${each}`),
        h("span", { class: "count" }, times.count(n)),
      ),
    ),
  );
  if (focused) pills.querySelector(`[data-filter="${focused}"]`)?.focus();
}

function busy() {
  return (
    scroll.matches(":hover") ||
    scroll.contains(document.activeElement) ||
    document.querySelector(".menu, dialog[open]")
  );
}

function drawTable(sessions) {
  const sorted = [...sessions].sort(SORTS[sort]);
  const ids = sorted.map((session) => session.id);
  const fresh =
    ids.filter((id) => !order.includes(id)).length + order.filter((id) => !ids.includes(id)).length;
  if (!busy() || order.length === 0 || pending) {
    order = ids;
    pending = false;
  } else {
    order = order.filter((id) => live.sessions.has(id));
  }
  const moved = order.join() !== ids.join();
  news.hidden = !moved || (fresh === 0 && !moved);
  if (!news.hidden) text(news, t("fleet.news", { n: Math.max(1, fresh) }));
  const shown = order
    .slice(0, limit)
    .map((id) => live.sessions.get(id))
    .filter(Boolean);
  table.setAttribute("aria-rowcount", String(order.length + 1));
  for (const [id, row] of rows)
    if (!shown.some((session) => session.id === id)) {
      row.remove();
      rows.delete(id);
    }
  shown.forEach((session, index) => place(session, index));
  drawFoot();
}

function drawFoot() {
  const more = order.length - limit;
  const key = `${order.length} ${limit} ${live.known}`;
  if (foot.dataset.key === key) return;
  foot.dataset.key = key;
  if (!live.known)
    put(
      foot,
      h(
        "div",
        { class: "pad stack-s" },
        ["w3", "w2", "w3"].map((width) => h("span", { class: `bone ${width}` })),
      ),
    );
  else if (order.length === 0)
    put(
      foot,
      h(
        "div",
        { class: "empty" },
        icon("monitor"),
        h("p", {}, t(filter === "all" && !wanted ? "fleet.empty" : "fleet.no_match")),
      ),
    );
  else
    put(
      foot,
      more > 0 &&
        h(
          "div",
          { class: "pad" },
          h(
            "button",
            {
              class: "button small",
              type: "button",
              click: () => {
                limit += ROWS_SHOWN;
                draw();
              },
            },
            t("fleet.more", { n: Math.min(more, ROWS_SHOWN) }),
          ),
        ),
    );
}

function place(session, index) {
  let row = rows.get(session.id);
  if (!row) {
    row = makeRow(session.id);
    rows.set(session.id, row);
  }
  if (body.children[index] !== row) body.insertBefore(row, body.children[index] ?? null);
  row.setAttribute("aria-rowindex", String(index + 2));
  fill(row, session);
}

function makeRow(id) {
  const cell = (extra = "") => h("td", { role: "cell", class: extra });
  const more = h(
    "button",
    { class: "button plain small square", type: "button", "aria-haspopup": "menu", "aria-expanded": "false" },
    icon("ellipsis"),
  );
  more.addEventListener("click", () => {
    const session = live.sessions.get(id);
    if (session) menu(more, actsOn(session, live), t("fleet.acts", { name: session.user.name }));
  });
  const row = h(
    "tr",
    { role: "row", "data-session": id },
    cell("key"),
    cell("end"),
    cell(),
    cell("end"),
    cell("opt"),
    cell("clip opt"),
    cell("clip opt"),
    cell("num opt"),
    h("td", { role: "cell", class: "num end" }, more),
  );
  return row;
}

function fill(row, session) {
  const cells = row.children;
  const key = JSON.stringify([
    session.user.name,
    session.state,
    session.saved_as_of,
    session.pending_files,
    session.pending_bytes,
    session.step_error,
    session.loss_cause,
    session.workspace.name,
    session.device_label,
    isLate(session),
    session.close_step,
  ]);
  if (row.dataset.key !== key) {
    row.dataset.key = key;
    put(
      cells[0],
      h(
        "a",
        {
          href: `#${session.id}`,
          click: (event) => {
            event.preventDefault();
            show(session.id);
          },
        },
        name(session.user.name),
      ),
    );
    put(cells[1], stateWord(session.state));
    put(cells[2], saved(session));
    text(
      cells[4],
      session.state === "held"
        ? inWords(session.loss_cause)
        : session.state === "closing"
          ? t(`fleet.cause_${session.close_cause ?? "hold"}`)
          : "",
    );
    text(cells[5], session.workspace.name);
    text(cells[6], session.state === "active" ? session.device_label : "");
    cells[8].firstChild.setAttribute("aria-label", t("fleet.acts", { name: session.user.name }));
  }
  left(cells[3], session);
  text(cells[7], times.age((Date.now() - Date.parse(session.created_at)) / 1000));
}

function saved(session) {
  const chip = savedChip(session, { fresh: true, long: false });
  if (session.pending_files)
    chip.lastChild.append(
      `, ${t("fleet.at_risk", { files: times.files(session.pending_files), size: times.size(session.pending_bytes ?? 0) })}`,
    );
  return chip;
}

function left(cell, session) {
  if (session.state === "held") {
    const seconds = leftOf(session);
    const shown = session.hold_counting
      ? times.figures(seconds, Date.now() + seconds * 1000)
      : t("fleet.standing");
    const share = Math.floor((seconds / Math.max(1, session.hold_s)) * 30);
    if (cell.dataset.share !== `${share}`) {
      cell.dataset.share = `${share}`;
      const soon = seconds <= session.hold_s / 6;
      put(
        cell,
        h(
          "span",
          { class: "hold" },
          smallRuler(seconds, session.hold_s),
          h("b", { class: soon ? "ending" : "" }),
        ),
      );
    }
    text(cell.querySelector("b"), shown);
    return;
  }
  const words =
    session.state === "closing"
      ? session.step_error
        ? t("fleet.waiting")
        : t(`step.${session.close_step ?? "access_ended"}`)
      : session.state === "starting" && session.step_error
        ? t("fleet.trouble")
        : "";
  if (cell.dataset.share !== words) {
    cell.dataset.share = words;
    put(cell, words && h("span", { class: session.step_error ? "delta gone" : "soft" }, words));
  }
}

function show(id) {
  const session = live.sessions.get(id);
  if (session) explain(session, live);
}

function again() {
  pending = true;
  limit = ROWS_SHOWN;
  draw();
}

news.addEventListener("click", again);
search.addEventListener("input", () => {
  wanted = search.value.trim().toLowerCase();
  again();
});
sorter.addEventListener("change", () => {
  sort = sorter.value;
  again();
});
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.target.closest("input, textarea, select, dialog")) return;
  event.preventDefault();
  search.focus();
});
setInterval(draw, 1000);
for (const kind of ["snapshot", "fresh"]) live.addEventListener(kind, draw);
draw();
