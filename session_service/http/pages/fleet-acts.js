// What operators do to a session, each with a dialog that says in order what it will do, and asks for the reason that
// its user reads and the audit log keeps. And "explain this session".

import { get, post, words } from "./api.js";
import { leftOf, endOf } from "./countdown.js";
import { choices, doing, field } from "./dialogs.js";
import { h, icon, put } from "./dom.js";
import { toast } from "./notes.js";
import { answers, badge, causeWords, facts, isWaiting } from "./parts.js";
import { name, say, t } from "./strings.js";
import * as times from "./times.js";

const SAVE_WAIT_MS = 600_000;
const EXTENSIONS_S = [1_800, 7_200, 28_800];
const REASON_LENGTH_MAX = 300;

/** Return the rows of the menu for a session. */
export function actsOn(session, live) {
  const running = session.state === "active" || session.state === "held";
  return [
    { label: t("fleet.explain"), lead: "info", run: () => explain(session, live) },
    session.state === "active" && {
      label: t("op.disconnect"),
      lead: "plug",
      run: () => disconnect(session, live),
    },
    running && { label: t("op.save"), lead: "save", run: () => save(session) },
    session.state === "held" && { label: t("op.extend"), lead: "clock", run: () => extend(session, live) },
    session.state !== "closing" && { label: t("op.close"), lead: "power", run: () => close(session, live) },
  ];
}

function reason(required = false) {
  return field(t("op.reason"), {
    name: "reason",
    maxlength: REASON_LENGTH_MAX,
    autocomplete: "off",
    required,
  });
}

function who(session) {
  return { user: session.user.name, workspace: session.workspace.name };
}

function pendingWords(session) {
  if (session.pending_files)
    return say("op.pending", {
      files: times.files(session.pending_files),
      size: times.size(session.pending_bytes ?? 0),
    });
  return session.saved_as_of
    ? say("op.nothing_pending", { time: times.moment(session.saved_as_of) })
    : say("op.not_saved");
}

async function disconnect(session, live) {
  const changed = await doing({
    title: t("op.disconnect_title", who(session)),
    lede: t("op.disconnect_lede"),
    does: [
      say("op.disconnect_1", { device: name(session.device_label || t("active.device")) }),
      say("op.disconnect_2", { time: times.duration(session.hold_s) }),
      say("op.disconnect_3"),
    ],
    fields: [reason()],
    verb: t("op.disconnect_verb"),
    busy: t("op.disconnect_busy"),
    run: (form) => post(`/sessions/${session.id}/disconnect`, { reason: form.elements.reason.value }),
  });
  if (changed?.id) {
    live.note(changed);
    toast(
      say("op.disconnect_done", {
        user: name(session.user.name),
        time: times.minute(changed.hold_deadline ?? Date.now()),
      }),
    );
  }
}

async function save(session) {
  const saved = await doing({
    title: t("op.save_title", who(session)),
    lede: t("op.save_lede"),
    does: [say("op.save_1"), say("op.save_2"), pendingWords(session)],
    fields: [reason()],
    verb: t("op.save_verb"),
    busy: t("save.busy"),
    run: (form) =>
      post(`/sessions/${session.id}/save`, { reason: form.elements.reason.value }, { wait_ms: SAVE_WAIT_MS }),
  });
  if (!saved?.saved_as_of) return;
  const values = {
    time: times.moment(saved.saved_as_of),
    files: times.entries(saved.entries),
    n: saved.unreadable,
    bad: times.files(saved.unreadable),
  };
  toast(
    say(saved.complete ? "save.done" : "save.part", values),
    saved.complete ? {} : { state: "held", glyph: "triangle-alert" },
  );
}

async function extend(session, live) {
  const end = endOf(session);
  const changed = await doing({
    title: t("op.extend_title", who(session)),
    lede: t("extend.lede", { time: times.moment(end) }),
    fields: [
      choices(
        "more",
        t("extend.legend"),
        EXTENSIONS_S.map((seconds) => ({
          value: seconds,
          title: times.minute(end + seconds * 1000),
          more: t("extend.more", { time: times.duration(seconds) }),
        })),
      ),
      reason(),
    ],
    verb: t("extend.verb"),
    busy: t("extend.busy"),
    run: (form) =>
      post(`/sessions/${session.id}/extend`, {
        seconds: Number(form.elements.more.value),
        reason: form.elements.reason.value,
      }),
  });
  if (changed?.id) {
    live.note(changed);
    toast(say("extend.done", { time: times.minute(changed.hold_deadline ?? end) }));
  }
}

async function close(session, live) {
  const left = leftOf(session);
  const changed = await doing({
    title: t("op.close_title", who(session)),
    lede:
      session.state === "held"
        ? t("op.close_held", { time: times.figures(left, endOf(session)) })
        : t("op.close_active"),
    does: [
      say("op.close_1"),
      h("span", {}, say("op.close_2"), " ", pendingWords(session)),
      say("op.close_3"),
      say("op.close_4"),
    ],
    fields: [reason(true)],
    verb: t("op.close_verb"),
    busy: t("op.close_busy"),
    danger: true,
    run: (form) => post(`/sessions/${session.id}/end`, { reason: form.elements.reason.value }),
  });
  if (changed?.id) {
    live.note(changed);
    toast(say("op.close_done", { user: name(session.user.name) }), { state: "closing", glyph: "st-closing" });
  }
}

/** Show why a session is as it is: at risk, why, next, the facts, and what happened, newest first. */
export async function explain(session, live) {
  const list = h("ol", { class: "log" }, h("li", {}, h("span", { class: "bone w3" })));
  const shut = h("button", { class: "button", type: "button" }, t("act.close"));
  const dialog = h(
    "dialog",
    { class: "wide", "aria-labelledby": "ex" },
    h(
      "div",
      { class: "sheet" },
      h(
        "div",
        {},
        h(
          "p",
          { class: "row wrap" },
          isWaiting(session) ? badge("alarm", t("waiting.badge")) : badge(session.state),
          h("span", { class: "small muted id" }, session.id),
        ),
        h("h1", { id: "ex", tabindex: "-1" }, name(session.user.name), " / ", name(session.workspace.name)),
      ),
      answers(
        ["risk", pendingWords(session), session.pending_files ? "warn" : "good"],
        ["why", whyWords(session)],
        ["next", nextWords(session)],
      ),
      facts(
        [t("fact.started"), times.moment(session.created_at)],
        [t("fact.hold"), times.duration(session.hold_s)],
        session.device_label && [t("column.device"), session.device_label],
        session.address && [t("fact.address"), h("span", { class: "id" }, session.address)],
        [t("fact.node"), h("span", { class: "id" }, session.node_id ?? "")],
        [t("fact.network"), session.network || t("fact.unknown")],
        session.limits_missing.length > 0 && [t("fact.limits"), session.limits_missing.join(", ")],
        session.step_error && [t("fact.error"), session.step_error],
      ),
      h(
        "section",
        { class: "stack-s" },
        h("h2", {}, t("fleet.explained")),
        h(
          "div",
          { class: "scroll short-scroll", tabindex: "0", role: "region", "aria-label": t("fleet.explained") },
          list,
        ),
      ),
      h(
        "div",
        { class: "buttons" },
        ...actsOn(session, live)
          .filter(Boolean)
          .slice(1)
          .map((act) =>
            h(
              "button",
              {
                class: "button",
                type: "button",
                click: () => {
                  dialog.close();
                  act.run();
                },
              },
              act.label,
            ),
          ),
        shut,
      ),
    ),
  );
  document.body.append(dialog);
  shut.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  dialog.showModal();
  dialog.querySelector("h1").focus();
  try {
    const { items } = await get(`/sessions/${session.id}/explanation`);
    put(list, ...items.reverse().map(lineOf));
  } catch (problem) {
    put(list, h("li", {}, h("span", {}), icon("octagon-alert"), h("span", {}, words(problem))));
  }
}

function lineOf(item) {
  const state = item.facts.to;
  const known = ["starting", "active", "held", "closing", "closed"].includes(state);
  const more = Object.entries(item.facts)
    .filter(
      ([key, value]) =>
        value !== null && value !== "" && !["from", "to", "generation", "loss_epoch"].includes(key),
    )
    .map(([key, value]) => `${key} ${value}`)
    .join(" · ");
  return h(
    "li",
    { class: known ? `is-${state}` : "" },
    h("time", {}, times.clock(item.at)),
    icon(known ? `st-${state}` : "info"),
    h("span", {}, h("b", { class: "strong" }, item.words), more && h("span", { class: "soft" }, more)),
  );
}

function whyWords(session) {
  if (session.state === "held")
    return h("span", {}, t("why.held", { time: times.moment(session.lost_at) }), " ", causeWords(session));
  if (session.state === "closing")
    return t(session.step_error ? "why.waiting" : "why.closing", {
      step: t(`step.${session.close_step ?? "access_ended"}`),
      error: session.step_error,
    });
  return t(`why.${session.state}`, {
    device: session.device_label || t("active.device"),
    time: times.moment(session.link_since ?? session.created_at),
  });
}

function nextWords(session) {
  if (session.state === "held")
    return t(session.hold_counting ? "next.held" : "next.standing", { time: times.moment(endOf(session)) });
  return t(isWaiting(session) ? "next.waiting" : `next.${session.state}`, {
    time: times.duration(session.hold_s),
  });
}
