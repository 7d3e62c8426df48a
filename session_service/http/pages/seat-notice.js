// The line between the bar and the picture of the screen page: what a user of a live desktop must know now and can do
// nothing about: a pause that is planned, a disk that is full. Not a toast: it stays for as long as it is true.

import { h, icon, put } from "./dom.js";
import { name, say } from "./strings.js";
import * as times from "./times.js";

export class SeatNotice {
  #key = "";
  root = h("div", { class: "seat-notice", role: "status" });

  update({ session, view, planned }) {
    const space = view === "live" && Boolean(session?.limits_missing?.includes("space"));
    const now = Date.now();
    const pause = view === "live" && planned?.back > now ? planned : null;
    const begun = pause && (pause.begin === null || pause.begin <= now);
    const key = JSON.stringify([space, pause, begun]);
    if (key === this.#key) return;
    this.#key = key;
    put(
      this.root,
      space && line("triangle-alert", "held", say("seat.space")),
      pause && line("clock", "starting", ...pauseWords(pause, begun)),
    );
  }
}

function pauseWords({ begin, back, note }, begun) {
  const words = begun
    ? say("seat.planned_now", { back: times.minute(back) })
    : say("seat.planned", { begin: times.minute(begin), back: times.minute(back) });
  return [words, ...(note ? [" ", name(note)] : [])];
}

function line(glyph, state, ...words) {
  return h("p", { class: `is-${state}` }, icon(glyph), h("span", {}, ...words));
}
