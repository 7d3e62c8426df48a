// My desktop: one large card for the desktop that matters, then other workspaces, receipts and signed-in devices.
// Everything shown comes from the API and the live stream; the countdown is drawn each second from what they said.

import { extend, chooseFiles, endAndSave, extendOnce, openAgain, putFiles, saveNow, start } from "./acts.js";
import { get, words } from "./api.js";
import { countdown, endOf, isEnding, leftOf } from "./countdown.js";
import { busyWhile } from "./dialogs.js";
import { drawDevices, drawOthers, drawReceipts } from "./desktop-rest.js";
import { h, icon, put } from "./dom.js";
import { frame } from "./frame.js";
import { Live } from "./live.js";
import { rememberWait } from "./memory.js";
import { announce, toast } from "./notes.js";
import {
  answers,
  badge,
  button,
  causeShort,
  closeSteps,
  isWaiting,
  linkButton,
  workAnswer,
} from "./parts.js";
import { Still } from "./still.js";
import { name, say, t } from "./strings.js";
import * as times from "./times.js";

const RANK = { held: 0, active: 1, starting: 2, closing: 3 };
const WARNINGS_S = [600, 300, 60];

const me = await frame("desktop", t("desktop.title"));
const live = new Live();
const main = document.querySelector("main");
const hero = h("div", {});
const notices = h("div", {});
const others = h("section", { class: "stack-s", "aria-labelledby": "h-ws" });
const receipts = h("section", { class: "stack-s", "aria-labelledby": "h-r" });
const devices = h("section", { class: "stack-s", "aria-labelledby": "h-l" });
put(
  main,
  h(
    "div",
    { class: "stack roomy" },
    h("h1", {}, t("desktop.title")),
    hero,
    notices,
    others,
    h("div", { class: "two" }, receipts, devices),
  ),
);

let workspaces = [];
let lastClosed = null;
let timer = countdown();
let drawn = "";
let warned = 0;
const still = new Still(() => draw());
put(hero, bones());

function own() {
  return [...live.sessions.values()].filter(
    (session) => session.user.id === me.user.id && session.state !== "closed",
  );
}

function matters() {
  return (
    own().sort((a, b) => RANK[a.state] - RANK[b.state] || (a.created_at < b.created_at ? 1 : -1))[0] ?? null
  );
}

function bones() {
  return h(
    "section",
    { class: "card pad stack", "aria-busy": "true", "aria-label": t("desktop.loading") },
    ["w2", "w1", "w3"].map((width) => h("span", { class: `bone ${width}` })),
  );
}

// ---------- what is shown ----------

function draw() {
  if (!live.known) return;
  const session = matters();
  const seen = still.of(session, live);
  const key = session
    ? JSON.stringify([
        session.id,
        session.state,
        session.generation,
        session.saved_as_of,
        session.pending_files,
        session.links,
        session.progress,
        session.step_error,
        session.hold_counting,
        live.fresh,
        isEnding(leftOf(session), session.hold_s),
        seen?.at,
      ])
    : `none ${lastClosed?.id} ${workspaces[0]?.saved_as_of} ${live.fresh}`;
  if (key !== drawn) {
    const focused = document.activeElement?.dataset?.k;
    drawn = key;
    put(hero, session ? card(session, seen) : noDesktop());
    if (focused) hero.querySelector(`[data-k="${focused}"]`)?.focus();
    drawNotices();
    drawOthers(others, {
      workspaces,
      shown: session ? session.workspace.id : workspaces[0]?.id,
      sessions: own(),
      changed: loadWorkspaces,
    });
  }
  tick();
}

function tick() {
  const session = matters();
  if (session?.state !== "held") return;
  timer.update(session, live.fresh);
  const left = leftOf(session);
  rememberWait(endOf(session));
  const limit = WARNINGS_S.findLast((seconds) => left <= seconds && seconds < session.hold_s);
  if (limit && warned !== limit) {
    warned = limit;
    announce(t("ending.title", { time: times.duration(limit) }), { now: limit === 60 });
  }
}

function card(session, seen) {
  const build = { starting: startingCard, active: activeCard, held: heldCard, closing: closingCard }[
    session.state
  ];
  const { head, title, middle = null, told, acts, more = [] } = build(session);
  return h(
    "section",
    { class: "card hero", "aria-labelledby": "h-hero", "data-state": session.state },
    seen ? lastPicture(seen) : picture(session),
    h(
      "div",
      { class: "body" },
      h(
        "div",
        { class: "stack-s" },
        h("p", { class: "row wrap" }, ...head),
        h("h2", { id: "h-hero" }, title),
      ),
      middle,
      told,
      h(
        "div",
        { class: "stack-s" },
        h("div", { class: "row wrap buttons" }, ...acts),
        more.length > 0 && h("div", { class: "row wrap minor" }, ...more),
      ),
    ),
  );
}

/** Never live-looking: it is grey and says when it was taken. */
function lastPicture(seen) {
  return h(
    "div",
    { class: "picture stale" },
    h("img", { src: seen.src, alt: t("picture.alt") }),
    h("span", { class: "stamp" }, t("picture.from", { time: times.moment(seen.at) })),
  );
}

function picture(session) {
  const words = {
    held: "picture.held",
    active: "picture.active",
    starting: "picture.starting",
    closing: "picture.closing",
  }[session.state];
  return h(
    "div",
    { class: `picture blank is-${session.state}`, "aria-hidden": "true" },
    icon(`st-${session.state}`, "large"),
    h("span", {}, name(session.workspace.name)),
    h("span", { class: "stamp" }, t(words)),
  );
}

function minorActs(session) {
  return [
    button(
      t("act.save_now"),
      (event) => busyWhile(event.currentTarget, t("save.busy"), () => saveNow(session)),
      { kind: "plain small", lead: "save", key: "save" },
    ),
    button(t("act.upload"), () => putFiles(session), {
      kind: "plain small",
      lead: "arrow-up",
      key: "upload",
    }),
    linkButton(t("act.files"), `/files?workspace=${session.workspace.id}`, {
      kind: "plain small",
      lead: "folder",
      key: "files",
    }),
  ];
}

function heldCard(session) {
  const left = leftOf(session);
  const ending = isEnding(left, session.hold_s);
  timer = countdown();
  const minute = times.minute(endOf(session));
  const where = [session.device_label, causeShort(session)].filter(Boolean).join(" · ");
  return {
    head: [
      badge("held"),
      h("span", { class: "small muted" }, where, session.lost_at ? `, ${times.moment(session.lost_at)}` : ""),
    ],
    title: ending
      ? t("ending.title", { time: times.duration(Math.max(60, Math.ceil(left / 60) * 60)) })
      : t("held.title"),
    middle: timer.root,
    told: answers(workAnswer(session, live.fresh), [
      "next",
      ending ? t("ending.next", { time: minute }) : t("held.next", { time: minute }),
    ]),
    acts: [
      linkButton(t("act.resume"), `/desktop/${session.id}`, { kind: "first", key: "resume" }),
      ending
        ? button(
            t("extend.to", { time: times.minute(endOf(session) + session.hold_s * 1000) }),
            () => extendOnce(session).then((changed) => changed && live.note(changed)),
            { key: "extend" },
          )
        : button(
            t("act.extend"),
            () => extend(session).then((changed) => changed?.id && live.note(changed)),
            { key: "extend" },
          ),
      button(t("act.end"), () => endAndSave(session).then((changed) => changed?.id && live.note(changed)), {
        key: "end",
      }),
    ],
    more: minorActs(session),
  };
}

function activeCard(session) {
  const since = session.link_since
    ? t("active.since", {
        device: session.device_label || t("active.device"),
        time: times.minute(session.link_since),
      })
    : session.device_label;
  return {
    head: [badge("active"), h("span", { class: "small muted" }, since)],
    title: t("active.title"),
    told: answers(
      workAnswer(session, live.fresh),
      ["time", t("active.time", { time: times.duration(session.hold_s) })],
      ["next", t("active.next")],
    ),
    acts: [
      linkButton(t("act.open"), `/desktop/${session.id}`, { kind: "first", key: "open" }),
      button(t("act.end"), () => endAndSave(session).then((changed) => changed?.id && live.note(changed)), {
        key: "end",
      }),
    ],
    more: minorActs(session),
  };
}

function startingCard(session) {
  const trouble = session.step_error;
  return {
    head: [
      badge("starting"),
      h("span", { class: "small muted" }, t("starting.since", { time: times.clock(session.created_at) })),
    ],
    title: t("starting.title"),
    middle: progressBar(session),
    told: answers(
      [
        "work",
        session.saved_as_of
          ? t("starting.work", { time: times.moment(session.saved_as_of) })
          : t("starting.work_none"),
      ],
      trouble
        ? ["next", t("starting.trouble", { n: session.step_attempts, reason: trouble }), "warn"]
        : ["next", t("starting.next")],
    ),
    acts: [
      linkButton(t("act.open"), `/desktop/${session.id}`, { kind: "first", key: "open" }),
      button(t("act.give_up"), () => endAndSave(session), { key: "end" }),
    ],
  };
}

/** Return a bar and words for the progress of a start; without a total only the words. */
function progressBar(session) {
  const progress = session.progress;
  const stage = progress?.stage === "restore" ? "starting.restore" : "starting.launch";
  const words = h(
    "p",
    { class: "small soft", role: "status" },
    t(stage, {
      done: times.count(progress?.done ?? 0),
      total: progress?.total ? times.files(progress.total) : "",
    }),
  );
  if (!progress?.total) return words;
  return h(
    "div",
    { class: "stack-s" },
    h("progress", {
      class: "progress",
      max: progress.total,
      value: progress.done,
      "aria-label": t("starting.title"),
    }),
    words,
  );
}

function closingCard(session) {
  const waiting = isWaiting(session);
  const kept = session.close_step === "access_ended" || session.close_step === "exiting";
  const again =
    kept &&
    button(
      t("act.open_again"),
      async (event) => {
        try {
          await busyWhile(event.currentTarget, t("again.busy"), () => openAgain(session));
        } catch (problem) {
          toast(words(problem), { state: "alarm", glyph: "octagon-alert" });
        }
      },
      { kind: waiting ? "first" : "", key: "again" },
    );
  if (!waiting) {
    return {
      head: [
        badge("closing"),
        h("span", { class: "small muted" }, t(`closing.because_${session.close_cause ?? "hold"}`)),
      ],
      title: t("closing.title"),
      middle: closeSteps(session),
      told: h("p", { class: "small soft" }, t("closing.lede")),
      acts: [linkButton(t("act.follow"), `/desktop/${session.id}`, { key: "follow" }), again].filter(Boolean),
    };
  }
  return {
    head: [
      badge("alarm", t("waiting.badge")),
      h(
        "span",
        { class: "small muted" },
        session.step_since ? t("waiting.since", { time: times.moment(session.step_since) }) : "",
      ),
    ],
    title: t("waiting.title"),
    told: answers(
      waitingWork(session),
      ["time", t("waiting.time")],
      ["next", t("waiting.next", { time: times.minute(session.step_since ?? Date.now()) })],
    ),
    acts: [again, linkButton(t("act.follow"), `/desktop/${session.id}`, { key: "follow" })].filter(Boolean),
  };
}

function waitingWork(session) {
  if (!session.saved_as_of) return ["work", t("waiting.work_none"), "bad"];
  return ["work", say("waiting.work", { time: times.moment(session.saved_as_of) }), "bad"];
}

function noDesktop() {
  const workspace = workspaces[0] ?? null;
  if (lastClosed?.outcome === "start_failed") return failedCard(workspace, lastClosed);
  const files = workspace?.saved_as_of
    ? t("none.files", { time: times.moment(workspace.saved_as_of) })
    : t("none.first");
  const go = h("button", { class: "button first", type: "button", "data-k": "start" }, t("act.start"));
  go.addEventListener("click", () => begin(go, workspace));
  return h(
    "section",
    { class: "card", "aria-labelledby": "h-none", "data-state": "none" },
    h(
      "div",
      { class: "empty" },
      icon("monitor"),
      h("h2", { id: "h-none" }, t("none.title")),
      h("p", {}, files),
      go,
      workspace?.saved_as_of &&
        h("p", {}, h("a", { class: "small", href: `/files?workspace=${workspace.id}` }, t("none.older"))),
    ),
  );
}

async function begin(go, workspace) {
  try {
    await busyWhile(go, t("start.busy"), () => start(workspace));
  } catch (problem) {
    const holder = go.closest(".empty, .body") ?? hero;
    holder.querySelector(".error")?.remove();
    holder.append(
      h(
        "p",
        { class: "error", role: "alert" },
        icon("octagon-alert"),
        h("span", {}, words(problem), problem.action ? ` ${problem.action}` : ""),
      ),
    );
  }
}

function failedCard(workspace, session) {
  const go = h("button", { class: "button first", type: "button", "data-k": "start" }, t("act.start_again"));
  go.addEventListener("click", () => begin(go, workspace));
  return h(
    "section",
    { class: "card pad stack", "aria-labelledby": "h-hero", "data-state": "failed" },
    h(
      "div",
      { class: "stack-s" },
      h(
        "p",
        { class: "row wrap" },
        badge("alarm", t("failed.badge")),
        h("span", { class: "small muted" }, times.moment(session.closed_at ?? session.created_at)),
      ),
      h("h2", { id: "h-hero" }, t("failed.title")),
    ),
    answers(["work", t("failed.work"), "good"], ["next", t("failed.next")]),
    session.detail &&
      h(
        "details",
        { class: "more", open: true },
        h("summary", {}, t("failed.words")),
        h("pre", { class: "id code" }, session.detail),
      ),
    h(
      "div",
      { class: "row wrap buttons body" },
      go,
      workspace &&
        button(
          t("act.choose"),
          () =>
            chooseFiles(workspace).catch((problem) =>
              toast(words(problem), { state: "alarm", glyph: "octagon-alert" }),
            ),
          { key: "choose" },
        ),
    ),
  );
}

function drawNotices() {
  const lines = [];
  if (!live.fresh && live.heard)
    lines.push(
      h(
        "div",
        { class: "notice is-held", role: "status" },
        icon("wifi-off"),
        h("p", {}, say("live.last_heard", { time: times.clock(live.heard) })),
      ),
    );
  if (lastClosed?.outcome === "saved_after_death" && !matters())
    lines.push(
      h(
        "div",
        { class: "notice is-held" },
        icon("info"),
        h("p", {}, say("died.notice", { time: times.moment(lastClosed.closed_at) })),
        h("a", { class: "push", href: `/receipts/${lastClosed.id}` }, t("receipt.word")),
      ),
    );
  for (const session of own()) {
    if (session.network === "none")
      lines.push(h("div", { class: "notice" }, icon("globe"), h("p", {}, t("network.none"))));
  }
  put(notices, ...lines);
}

// ---------- what it is drawn from ----------

async function loadWorkspaces() {
  const [found, newest] = await Promise.all([
    get("/workspaces?limit=200"),
    get("/sessions?mine=true&limit=1"),
  ]);
  workspaces = found.items;
  lastClosed = newest.items[0]?.state === "closed" ? newest.items[0] : null;
  drawn = "";
  draw();
}

async function load() {
  await loadWorkspaces();
  await Promise.all([drawReceipts(receipts, workspaces), drawDevices(devices)]);
}

let openBefore = "";
live.addEventListener("change", () => {
  const open = own()
    .map((session) => session.id)
    .sort()
    .join();
  if (openBefore && open !== openBefore) load().catch(() => {});
  openBefore = open;
  draw();
});
live.addEventListener("fresh", () => {
  drawn = "";
  draw();
});
setInterval(draw, 1000);
await load().catch((problem) =>
  put(
    hero,
    h("div", { class: "notice is-alarm", role: "alert" }, icon("octagon-alert"), h("p", {}, words(problem))),
  ),
);
