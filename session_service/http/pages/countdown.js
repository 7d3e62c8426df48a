// What is left of a hold: figures, and the ruler of thirty ticks. Counted from what the service said remains and the
// clock that only runs forward since then; the wall clock is never asked, so that changing it changes nothing.

import { h, put, svg, text } from "./dom.js";
import { t } from "./strings.js";
import * as times from "./times.js";

const TICKS = 30;
const ENDING_SHARE = 1 / 6;

/** Return the seconds left of a held session now; null when it is not held. Never below 0. */
export function leftOf(session) {
  if (session.hold_remaining_s === null || session.hold_remaining_s === undefined) return null;
  const since = session.hold_counting ? (performance.now() - session.toldAt) / 1000 : 0;
  return Math.max(0, session.hold_remaining_s - since);
}

/** Return when the hold ends, as a wall time for display. */
export function endOf(session) {
  return Date.now() + (leftOf(session) ?? 0) * 1000;
}

/** Say whether a hold is in its last sixth. */
export function isEnding(left, hold) {
  return left !== null && left <= hold * ENDING_SHARE;
}

/** Return the large countdown; call its `update(session, fresh)` each second. */
export function countdown() {
  const figures = h("span", { class: "figures", role: "timer", "aria-label": t("countdown.label") });
  const until = h("span", { class: "until" });
  const [ruler, setRuler] = largeRuler();
  const ends = [h("span"), h("span")];
  const root = h(
    "div",
    {},
    h("p", { class: "left" }, figures, " ", until),
    ruler,
    h("p", { class: "ruler-ends" }, ...ends),
  );
  function update(session, fresh) {
    const left = leftOf(session);
    if (left === null) return;
    const end =
      session.hold_deadline && session.hold_counting ? Date.parse(session.hold_deadline) : endOf(session);
    root.classList.toggle("ending", isEnding(left, session.hold_s));
    text(figures, left > 0 ? times.figures(left, end) : t("countdown.over"));
    if (left <= 0 || (fresh && session.hold_counting && times.saysWhen(left))) text(until, "");
    else if (!session.hold_counting) text(until, t("countdown.standing"));
    else
      text(
        until,
        fresh
          ? t("countdown.until", { time: times.moment(end) })
          : t("countdown.at_least", { time: times.minute(end) }),
      );
    setRuler(session.hold_s > 0 ? 1 - left / Math.max(session.hold_s, left) : 1);
    text(ends[0], session.lost_at ? t("countdown.lost", { time: times.minute(session.lost_at) }) : "");
    text(ends[1], t("countdown.closes", { time: times.minute(end) }));
  }
  return { root, update };
}

/** Return the large ruler and a function that sets which share of the time is spent. */
export function largeRuler() {
  const ticks = [];
  for (let i = 0; i <= TICKS; i += 1) {
    const at = `${((i / TICKS) * 100).toFixed(2)}%`;
    ticks.push(svg("line", { x1: at, x2: at, y1: i % 5 ? 9 : 0, y2: 22 }));
  }
  const now = svg("line", { class: "now", y1: -5, y2: 27 });
  const root = svg("svg", { class: "ruler", "aria-hidden": "true" }, ...ticks, now);
  function set(spent) {
    const share = Math.min(1, Math.max(0, spent));
    ticks.forEach((tick, i) => tick.classList.toggle("on", i / TICKS >= share));
    now.setAttribute("x1", `${(share * 100).toFixed(2)}%`);
    now.setAttribute("x2", `${(share * 100).toFixed(2)}%`);
  }
  return [root, set];
}

/** Return the small ruler of a table row. */
export function smallRuler(left, hold) {
  const share = hold > 0 ? Math.min(1, Math.max(0, 1 - left / Math.max(hold, left))) : 1;
  let spent = "";
  let open = "";
  for (let i = 0; i < TICKS; i += 1) {
    const line = `M${i * 3 + 0.5} 0v10`;
    if ((i + 1) / TICKS > share) open += line;
    else spent += line;
  }
  const mini = svg("svg", {
    class: `mini${isEnding(left, hold) ? " ending" : ""}`,
    viewBox: "0 0 90 10",
    "aria-hidden": "true",
  });
  return put(mini, spent && svg("path", { d: spent }), open && svg("path", { class: "on", d: open }));
}
