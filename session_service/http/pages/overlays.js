// What each overlay of the screen page says. Pure: given what is known, returns heading, answers and buttons. Which
// moment it is, is decided in screen.js.

import { endOf, isEnding, leftOf } from "./countdown.js";
import { h, icon } from "./dom.js";
import {
  answers,
  badge,
  button,
  causeShort,
  closeSteps,
  facts,
  linkButton,
  shortDevice,
  workAnswer,
} from "./parts.js";
import { filesWords, provedBy } from "./receipts-list.js";
import { name, say, t } from "./strings.js";
import * as times from "./times.js";

/** Connection lost: the desktop is held, the page tries again by itself. */
export function lost(seat) {
  const { session, timer, link } = seat;
  const end = times.minute(endOf(session));
  const details = facts(
    [t("lost.cause"), `${session.loss_cause ?? "unknown"}`],
    [t("lost.last"), link.pictureFrom ? times.clock(link.pictureFrom) : t("lost.unknown")],
    [t("lost.tries"), times.count(link.tries)],
    [t("lost.session"), h("span", { class: "id" }, session.id)],
  );
  return {
    head: [
      badge("held"),
      h("span", { class: "small muted" }, causeHere(seat), `, ${times.moment(seat.lostAt)}`),
    ],
    title: lines(t("lost.title")),
    lede: seat.isBlank ? t("lost.lede_blank") : t("lost.lede", { time: times.clock(link.pictureFrom ?? seat.lostAt) }),
    parts: [
      planned(link),
      timer.root,
      answers(workAnswer(session, seat.heard), ["next", t("lost.next", { time: end })]),
    ],
    buttons: [
      button(t("act.try_now"), () => link.tryNow(), { kind: "first", key: "try" }),
      linkButton(t("act.leave_page"), "/desktop", { key: "leave" }),
    ],
    status: [seat.statusIcon, seat.statusWords],
    details: h(
      "details",
      { class: "more" },
      h("summary", {}, t("lost.details")),
      details,
      h("p", { class: "stack-s" }, t("lost.elsewhere")),
    ),
  };
}

/** Why the line ended, for who reads it here: whoever reads it has not closed this page, whatever was heard. */
function causeHere({ session, heard }) {
  const told = heard && session.loss_cause && session.loss_cause !== "tab_closed";
  return told ? causeShort(session) : t("cause.cut");
}

/** A pause that was announced: when the service means to be back, and what its people say. */
function planned({ planned: pause }) {
  if (!pause) return "";
  const words = t("lost.planned", { time: times.minute(pause.back) });
  const note = pause.note ? [" ", name(pause.note)] : [];
  return h("p", { class: "notice", "data-planned": "" }, icon("clock"), h("span", {}, words, ...note));
}

/** The service answers again; the picture is on its way. */
export function reconnecting(seat) {
  const { session, timer, link } = seat;
  return {
    head: [
      badge("held"),
      h("span", { class: "small muted" }, t("reconnecting.for", { time: times.duration(seat.awayS) })),
    ],
    title: t("reconnecting.title"),
    lede: t("reconnecting.lede"),
    parts: [timer.root, answers(workAnswer(session, seat.heard), ["next", t("reconnecting.next")])],
    status: [h("span", { class: "spin" }), h("span", {}, t("reconnecting.status", { n: link.tries }))],
  };
}

/** The first opening takes its time, or the desktop is not ready yet. */
export function opening(seat) {
  const { session, link } = seat;
  const starting = session.state === "starting";
  const progress = session.progress;
  const stage = starting
    ? t(progress?.stage === "restore" ? "starting.restore" : "starting.launch", {
        done: times.count(progress?.done ?? 0),
        total: progress?.total ? times.files(progress.total) : "",
      })
    : "";
  return {
    head: [
      badge(starting ? "starting" : session.state),
      h(
        "span",
        { class: "small muted" },
        starting
          ? t("starting.since", { time: times.clock(session.created_at) })
          : name(session.workspace.name),
      ),
    ],
    title: t(starting ? "starting.title" : "opening.title"),
    lede: starting ? stage : t("opening.lede"),
    parts: [
      starting && progress?.total
        ? h("progress", {
            class: "progress",
            max: progress.total,
            value: progress.done,
            "aria-label": t("starting.title"),
          })
        : null,
      answers(
        starting
          ? [
              "work",
              session.saved_as_of
                ? t("starting.work", { time: times.moment(session.saved_as_of) })
                : t("starting.work_none"),
            ]
          : workAnswer(session, seat.heard),
        session.step_error
          ? ["next", t("starting.trouble", { n: session.step_attempts, reason: session.step_error }), "warn"]
          : ["next", t(starting ? "starting.next_here" : "opening.next")],
      ),
    ].filter(Boolean),
    buttons: [linkButton(t("nav.desktops"), "/desktop", { key: "leave" })],
    status:
      link.nextTryAt === null
        ? [h("span", { class: "spin" }), h("span", {}, t(starting ? "starting.status" : "opening.status"))]
        : [seat.statusIcon, seat.statusWords],
  };
}

/** Another device has the desktop now; this page stays down. */
export function takenOver(seat) {
  const { session } = seat;
  const device = session.device_label || t("active.device");
  return {
    head: [
      badge("active"),
      h(
        "span",
        { class: "small muted" },
        session.link_since ? t("taken.since", { device, time: times.minute(session.link_since) }) : "",
      ),
    ],
    title: t("taken.title"),
    lede: say("taken.lede", { device: bold(device) }),
    parts: [
      answers(
        session.saved_as_of
          ? ["work", say("taken.work", { time: times.moment(session.saved_as_of) }), "good"]
          : ["work", say("work.not_yet"), "warn"],
        ["next", t("taken.next", { device: lower(device) })],
      ),
    ],
    buttons: [
      button(t("act.take_back"), () => seat.open("control"), { kind: "first", key: "take" }),
      button(t("act.only_watch"), () => seat.open("view"), { key: "watch" }),
      linkButton(t("act.close_page"), "/desktop", { kind: "plain", key: "leave" }),
    ],
    status: [
      icon("lock"),
      h("span", {}, t("taken.not_you"), " ", h("a", { href: "/desktop#devices" }, t("taken.sign_out"))),
    ],
  };
}

/** A rule keeps the desktop with the other device until this one asks. */
export function inUse(seat) {
  const device = seat.link.said?.by || seat.session.device_label || t("active.device");
  return {
    head: [badge("active"), h("span", { class: "small muted" }, name(device))],
    title: t("taken.title"),
    lede: say("in_use.lede", { device: bold(device) }),
    parts: [answers(workAnswer(seat.session, seat.heard), ["next", t("in_use.next")])],
    buttons: [
      button(t("act.use_here"), () => seat.open("control"), { kind: "first", key: "take" }),
      linkButton(t("nav.desktops"), "/desktop", { key: "leave" }),
    ],
  };
}

/** The hold is in its last sixth while this page shows it. */
export function ending(seat) {
  const { session, timer } = seat;
  const end = endOf(session);
  const left = Math.max(60, Math.ceil(leftOf(session) / 60) * 60);
  const work = workAnswer(session, seat.heard);
  return {
    head: [
      badge("held"),
      h(
        "span",
        { class: "small muted" },
        t("ending.away", { time: times.moment(session.lost_at ?? seat.lostAt) }),
      ),
    ],
    title: t("ending.title", { time: times.duration(left) }),
    lede: t("ending.lede"),
    parts: [
      timer.root,
      answers(
        [work[0], h("span", {}, work[1], " ", t("ending.typed")), work[2]],
        ["next", t("ending.next", { time: times.minute(end) })],
      ),
    ],
    buttons: [
      button(t("act.resume"), () => seat.link.tryNow(), { kind: "first", key: "try" }),
      button(t("extend.to", { time: times.minute(end + session.hold_s * 1000) }), () => seat.extend(), {
        key: "extend",
      }),
      button(t("act.end"), () => seat.end(), { kind: "plain", key: "end" }),
    ],
    status: [seat.statusIcon, seat.statusWords],
  };
}

/** Access has ended; files are saved and checked. */
export function closing(seat) {
  const { session } = seat;
  return {
    head: [
      badge("closing"),
      h(
        "span",
        { class: "small muted" },
        session.lost_at ? t("ending.away", { time: times.moment(session.lost_at) }) : "",
      ),
    ],
    title: t("closing.title"),
    lede: t("closing.lede"),
    parts: [
      closeSteps(session),
      session.refused_windows.length > 0 &&
        h("p", { class: "small soft" }, t("closing.windows", { n: session.refused_windows.length })),
    ].filter(Boolean),
    buttons: [linkButton(t("nav.desktops"), "/desktop", { key: "leave" })],
  };
}

/** The close cannot go on: storage does not answer, or files cannot be read. */
export function waiting(seat) {
  const { session } = seat;
  const kept = session.close_step === "access_ended" || session.close_step === "exiting";
  const since = session.step_since ?? session.lost_at ?? session.created_at;
  return {
    head: [
      badge("alarm", t("waiting.badge")),
      h("span", { class: "small muted" }, t("waiting.since", { time: times.moment(since) })),
    ],
    title: lines(t("waiting.title_lines")),
    lede: t("waiting.lede"),
    parts: [
      answers(
        [
          "work",
          session.saved_as_of
            ? say("waiting.work", { time: times.moment(session.saved_as_of) })
            : t("waiting.work_none"),
          "bad",
        ],
        ["time", t("waiting.time")],
        ["next", t("waiting.next", { time: times.minute(since) })],
      ),
    ],
    buttons: [
      kept &&
        button(t("act.open_again"), (event) => seat.again(event.currentTarget), {
          kind: "first",
          key: "again",
        }),
      linkButton(t("nav.desktops"), "/desktop", { key: "leave" }),
    ].filter(Boolean),
    status: [
      h("span", { class: "spin" }),
      h("span", {}, t("waiting.status", { n: Math.max(1, session.step_attempts) })),
    ],
    details: h(
      "details",
      { class: "more" },
      h("summary", {}, t("waiting.details")),
      h("p", { class: "id" }, session.step_error),
    ),
  };
}

/** Closed: what was saved, and where to go on. */
export function closed(seat) {
  const { session, receipt } = seat;
  const proof = receipt ? provedBy(receipt.body) : null;
  const saved = proof?.saved_as_of_ms ?? (session.saved_as_of ? Date.parse(session.saved_as_of) : null);
  const away =
    session.lost_at && session.closed_at
      ? (Date.parse(session.closed_at) - Date.parse(session.lost_at)) / 1000
      : null;
  const lede =
    {
      ended_by_user: () => t("closed.by_user", { time: times.moment(session.closed_at) }),
      ended_by_operator: () => t("closed.by_operator", { time: times.moment(session.closed_at) }),
      saved_after_death: () => t("died.lede", { time: times.moment(session.closed_at) }),
      reused: () => t("closed.reused"),
    }[session.outcome] ??
    (() => (away ? t("closed.away", { time: times.duration(away) }) : t("closed.lede")));
  const reused = session.outcome === "reused";
  const lostFiles = session.outcome === "node_lost" || session.outcome === "desktop_lost";
  const titles = {
    saved_after_death: "died.title",
    reused: "closed.reused_title",
    node_lost: "closed.lost_title",
    desktop_lost: "closed.lost_title",
  };
  return {
    head: [
      badge("closed"),
      h("span", { class: "small muted" }, session.closed_at ? times.moment(session.closed_at) : ""),
    ],
    title: t(titles[session.outcome] ?? "closed.title"),
    lede: lostFiles ? session.detail || t("closed.lost_lede") : lede(),
    parts: proof
      ? [
          facts(
            [t("fact.saved"), saved ? h("b", { class: "strong" }, times.moment(saved)) : t("fact.unknown")],
            proof.entries !== undefined && [t("fact.files"), filesWords(proof)],
            [t("fact.checked"), t("fact.checked_value", { time: times.moment(receipt.body.receipt_at_ms) })],
            [t("fact.text"), t("fact.text_value")],
            [t("receipt.word"), h("span", { class: "id" }, session.id)],
          ),
        ]
      : [],
    buttons: [
      reused
        ? linkButton(t("nav.desktops"), "/desktop", { kind: "first", key: "leave" })
        : button(t("act.start_files"), (event) => seat.startAgain(event.currentTarget), {
            kind: "first",
            key: "start",
          }),
      receipt && linkButton(t("receipt.word"), `/receipts/${session.id}`, { key: "receipt" }),
      linkButton(t("act.browse"), `/files?workspace=${session.workspace.id}`, {
        kind: "plain",
        key: "files",
      }),
    ].filter(Boolean),
    status: seat.failure ? [icon("octagon-alert"), h("span", {}, seat.failure)] : null,
  };
}

/** The start failed; its last words are shown. */
export function startFailed(seat) {
  const { session } = seat;
  return {
    head: [
      badge("alarm", t("failed.badge")),
      h("span", { class: "small muted" }, times.moment(session.closed_at ?? session.created_at)),
    ],
    title: t("failed.title"),
    lede: t("failed.lede"),
    parts: [answers(["work", t("failed.work"), "good"], ["next", t("failed.next")])],
    buttons: [
      button(t("act.start_again"), (event) => seat.startAgain(event.currentTarget), {
        kind: "first",
        key: "start",
      }),
      button(t("act.choose"), () => seat.choose(), { key: "choose" }),
      linkButton(t("nav.desktops"), "/desktop", { kind: "plain", key: "leave" }),
    ],
    status: seat.failure ? [icon("octagon-alert"), h("span", {}, seat.failure)] : null,
    details: session.detail
      ? h(
          "details",
          { class: "more", open: true },
          h("summary", {}, t("failed.words")),
          h("pre", { class: "id code" }, session.detail),
        )
      : null,
  };
}

/** A ticket was used a second time. */
export function ticket() {
  return {
    head: [
      badge("closed", t("ticket.badge"), "link-2-off"),
      h("span", { class: "small muted" }, t("ticket.rule")),
    ],
    title: lines(t("ticket.title")),
    lede: t("ticket.lede"),
    parts: [answers(["work", t("ticket.work")], ["time", t("ticket.time")])],
    buttons: [linkButton(t("act.sign_in"), "/sign-in", { kind: "first", key: "sign-in" })],
  };
}

/** Unknown, somebody else's, or refused by a rule: one answer. */
export function denied(seat) {
  const reference = seat.reference || "";
  return {
    head: [badge("closed", t("denied.badge"), "lock"), h("span", { class: "small muted" }, t("denied.code"))],
    title: t("denied.title"),
    lede: t("denied.lede"),
    parts: [answers(["work", t("denied.work")], ["next", t("denied.next")])],
    buttons: [
      linkButton(t("nav.desktops"), "/desktop", { kind: "first", key: "leave" }),
      reference && button(t("denied.copy"), () => navigator.clipboard?.writeText(reference), { key: "copy" }),
    ].filter(Boolean),
    status: reference
      ? [h("span", {}, `${t("denied.reference")} `, h("span", { class: "id" }, reference))]
      : null,
  };
}

/** The page and the service did not understand each other. */
export function broken(seat) {
  return {
    head: [badge(seat.session.state), h("span", { class: "small muted" }, times.moment(Date.now()))],
    title: t("broken.title"),
    lede: t("broken.lede"),
    parts: [answers(workAnswer(seat.session, seat.heard), ["next", t("broken.next")])],
    buttons: [
      button(t("act.try_now"), () => seat.open("control"), { kind: "first", key: "try" }),
      linkButton(t("nav.desktops"), "/desktop", { key: "leave" }),
    ],
    status: seat.link.problem ? [icon("info"), h("span", {}, seat.link.problem.detail)] : null,
  };
}

/** Say whether the hold that this page shows is about to end. */
export function isAboutToEnd(session) {
  return session.state === "held" && isEnding(leftOf(session), session.hold_s) && session.hold_s >= 300;
}

function lines(words) {
  return words
    .split("\n")
    .flatMap((line, index) => (index ? [h("br"), line] : [line]))
    .reduce((made, part) => {
      made.append(part);
      return made;
    }, document.createDocumentFragment());
}

function bold(words) {
  return h("b", {}, name(words));
}

function lower(device) {
  return name(shortDevice(device));
}
