// One line about the second store on the operators' page: how far it is behind. Nothing where there is none. What needs
// a person is an alarm and stands above it.

import { get } from "./api.js";
import { h, put } from "./dom.js";
import { t } from "./strings.js";
import * as times from "./times.js";

const EVERY_MS = 15_000;

/** Return the line; it asks for itself while the page is seen. */
export function secondStore() {
  const line = h("p", { class: "small muted", role: "status", hidden: true });
  const look = async () => {
    if (document.hidden) return;
    try {
      show(line, await get("/second-store"));
    } catch {
      line.hidden = true; // the page says by itself that it is not live
    }
  };
  look();
  setInterval(look, EVERY_MS);
  return line;
}

function show(line, found) {
  line.hidden = !found.configured;
  if (line.hidden) return;
  const behind = t("second.behind", {
    entries: times.count(found.behind_entries),
    size: times.size(found.behind_bytes),
    time: times.duration(found.behind_seconds),
  });
  const words = !found.usable
    ? t("second.not_usable", { why: found.error })
    : found.in_step
      ? t("second.in_step")
      : behind;
  put(line, words);
}
