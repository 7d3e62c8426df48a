// The parts that several pages show: state badges, the saved chip, the three answers, causes, buttons.

import { h, icon } from "./dom.js";
import { has, say, t } from "./strings.js";
import * as times from "./times.js";

const LATE_MS = 30_000; // three times the goal: a save older than this while something is pending is late

/** Return a badge: glyph, word and tint. `state` gives the colour, `glyph` another shape, `word` a sharper word. */
export function badge(state, word = t(`state.${state}`), glyph = `st-${state}`) {
  return h("span", { class: `badge is-${state}` }, icon(glyph), word);
}

/** Return the state as tables show it, without the tint. */
export function stateWord(state, word = t(`state.${state}`)) {
  return h("span", { class: `state is-${state}` }, icon(`st-${state}`), word);
}

/** Return a button. */
export function button(label, act, { kind = "", lead, key, ...more } = {}) {
  return h(
    "button",
    { class: `button ${kind}`.trim(), type: "button", click: act, "data-k": key, ...more },
    lead && icon(lead),
    label,
  );
}

/** Return a link that looks like a button. */
export function linkButton(label, href, { kind = "", lead, key, ...more } = {}) {
  return h("a", { class: `button ${kind}`.trim(), href, "data-k": key, ...more }, lead && icon(lead), label);
}

/** Return a button that is only an icon. */
export function iconButton(id, label, act, more = {}) {
  return h(
    "button",
    { class: "button small square", type: "button", "aria-label": label, title: label, click: act, ...more },
    icon(id),
  );
}

const ANSWERS = {
  work: "shield-check",
  time: "clock",
  next: "arrow-right",
  risk: "shield-check",
  why: "info",
};

/** Return the three answers: rows of [kind, words, mood]; mood is good, warn, bad or nothing. */
export function answers(...rows) {
  return h(
    "dl",
    { class: "answers" },
    rows.filter(Boolean).map(([kind, words, mood = ""]) => {
      const glyph = mood === "bad" ? "triangle-alert" : ANSWERS[kind];
      return h(
        "div",
        { class: mood },
        icon(glyph, kind === "next" ? "flip" : ""),
        h("dt", {}, t(`answer.${kind}`)),
        h("dd", {}, words),
      );
    }),
  );
}

/** Return facts as a list of names and values. */
export function facts(...rows) {
  return h(
    "dl",
    { class: "facts" },
    rows.filter(Boolean).flatMap(([label, value]) => [h("dt", {}, label), h("dd", {}, value)]),
  );
}

/** Return steps told from top to bottom: each {when, glyph, state, title, more}. */
export function story(steps) {
  return h(
    "ol",
    { class: "story" },
    steps.map((step) =>
      h(
        "li",
        {},
        h("span", { class: "when" }, step.when ?? ""),
        h("span", { class: `spine is-${step.state}` }, icon(step.glyph)),
        h("p", { class: "text" }, h("b", {}, step.title), step.more && h("span", {}, step.more)),
      ),
    ),
  );
}

/** Return why a client was lost, as its user reads it. */
export function causeWords(session) {
  const key = `cause.${session.loss_cause}`;
  return t(has(key) ? key : "cause.unknown");
}

/** Return the cause for the line beside a badge, where a time follows. */
export function causeShort(session) {
  return causeWords(session).replace(/\.$/, "");
}

/** Return what a device is called within a sentence: "phone", "tablet", "Linux computer". */
export function shortDevice(label) {
  if (!label || label === "Unknown device") return t("device.other");
  const word = label.split(",")[0];
  return /^(Phone|Tablet)$/.test(word) ? word.toLowerCase() : word;
}

/** Return the answer to "is my work safe?" of an open session; `fresh` says whether we hear of it now. */
export function workAnswer(session, fresh) {
  const pending = session.pending_files;
  if (!session.saved_as_of) return ["work", say("work.not_yet"), "warn"];
  const time = times.moment(session.saved_as_of);
  if (pending) {
    const values = {
      n: pending,
      files: times.files(pending),
      size: times.size(session.pending_bytes ?? 0),
      time,
    };
    return [
      "work",
      say(fresh ? "work.pending" : "work.pending_last", values),
      isLate(session) ? "warn" : "good",
    ];
  }
  if (pending === null || pending === undefined)
    return ["work", say(fresh ? "work.saved" : "work.saved_last", { time }), "good"];
  if (!fresh) return ["work", say("work.all_last", { time }), "good"];
  return ["work", say(session.state === "held" ? "work.all_held" : "work.all", { time }), "good"];
}

/** Say whether the newest save is older than it should be while something waits to be saved. */
export function isLate(session) {
  return (
    Boolean(session.pending_files) &&
    Date.now() - Date.parse(session.saved_as_of ?? session.created_at) > LATE_MS
  );
}

/** Say whether a close waits because storage (or something else) does not let it go on. */
export function isWaiting(session) {
  return session.state === "closing" && Boolean(session.step_error);
}

/** Return the "saved as of" chip. */
export function savedChip(session, { fresh = true, long = true } = {}) {
  if (!session.saved_as_of)
    return h("span", { class: "saved late" }, icon("clock"), h("span", {}, t("saved.not_yet")));
  const time = h("b", {}, times.moment(session.saved_as_of));
  if (isWaiting(session))
    return h(
      "span",
      { class: "saved failing" },
      icon("triangle-alert"),
      h("span", {}, say("saved.failing", { time })),
    );
  const late = isLate(session);
  const word = long ? h("span", { class: "wide-only" }, `${t("saved.word")} `) : null;
  const more = fresh ? (late ? t("saved.late") : "") : t("saved.last");
  return h(
    "span",
    { class: `saved${late ? " late" : ""}` },
    icon(late ? "clock" : "shield-check"),
    h("span", {}, word, time, more && h("span", { class: "wide-only" }, `, ${more}`)),
  );
}

/** Return the steps of a close with what is done, what is going on and what follows. */
export function closeSteps(session) {
  const done = ["access_ended", "exiting", "ending", "ended", "wiped", "receipted"].indexOf(
    session.close_step,
  );
  const saving = session.close_step === "access_ended" || session.close_step === "exiting";
  const progress = session.progress;
  let how = t("closing.saving_more");
  if (progress && progress.total && progress.stage !== "upload")
    how = t("closing.progress", { done: times.count(progress.done), total: times.files(progress.total) });
  else if (progress && progress.stage === "scan")
    how = t("closing.scanned", { n: progress.done, count: times.count(progress.done) });
  const rows = [
    ["closing.access", t(`closing.because_${session.close_cause ?? "hold"}`), done >= 0],
    ["closing.frozen", t("closing.frozen_more"), done >= 0],
    ["closing.saving", saving ? how : t("closing.saved_more"), done >= 2],
    ["closing.close", "", done >= 5],
  ];
  const current = rows.findIndex((row) => !row[2]);
  return story(
    rows.map(([key, more, isDone], index) => ({
      when: index === current ? t("time.now") : "",
      state: isDone ? "active" : index === current ? "closing" : "closed",
      glyph: isDone ? "check" : index === current ? "st-closing" : "st-starting",
      title: t(key),
      more: isDone || index === current ? more : "",
    })),
  );
}
