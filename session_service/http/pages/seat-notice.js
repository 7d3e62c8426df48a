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
    const pause = view === "live" ? planned : null;
    const key = JSON.stringify([space, pause]);
    if (key === this.#key) return;
    this.#key = key;
    put(this.root, space && line("triangle-alert", "held", say("seat.space")), pause && line("clock", "starting", ...pauseWords(pause)));
  }
}

function pauseWords({ begin, back, note }) {
  const values = { begin: times.minute(begin ?? back), back: times.minute(back) };
  return [say(begin === null ? "seat.planned_now" : "seat.planned", values), ...(note ? [" ", name(note)] : [])];
}

function line(glyph, state, ...words) {
  return h("p", { class: `is-${state}` }, icon(glyph), h("span", {}, ...words));
}
