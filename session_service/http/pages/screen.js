// The screen page: the desktop's picture fills it, a bar stands above, and an overlay says what happened whenever
// there is no live picture. This module decides which moment it is, from the link (link.js) and from what the service
// says of the session (live.js); what each moment says is in overlays.js.

import { chooseFiles, endAndSave, extendOnce, openAgain, putFiles, read, saveNow, start } from "./acts.js";
import { get, goToSignIn, words } from "./api.js";
import { Clipboard } from "./clipboard.js";
import { countdown, endOf, leftOf } from "./countdown.js";
import { busyWhile } from "./dialogs.js";
import { h, icon, put, text } from "./dom.js";
import { Keys } from "./keys.js";
import { Link } from "./link.js";
import { Live } from "./live.js";
import { rememberWait } from "./memory.js";
import { announce, clearToasts, toast, toastsIn } from "./notes.js";
import { Overlay } from "./overlay.js";
import * as overlays from "./overlays.js";
import { isWaiting, shortDevice } from "./parts.js";
import { Picture } from "./picture.js";
import { SeatBar } from "./seat-bar.js";
import { SeatNotice } from "./seat-notice.js";
import { say, t } from "./strings.js";
import * as times from "./times.js";

const QUIET_S = 2; // so long a loss shows only in the bar and in the grey picture
const BLANK_S = 60; // who left the page alone shows nobody what was on it
const OPENING_S = 0.4; // nothing is said of an opening that is quicker
const NARROW = matchMedia("(max-width: 40rem)");
/** No keyboard to speak of: the menu has the hint for who has one all the same. */
const TOUCH = matchMedia("(hover: none) and (pointer: coarse)");
const SEEN_KEY = "chord-hint-seen";

const sessionId = location.pathname.split("/").pop();

class Seat {
  constructor() {
    this.session = null;
    this.receipt = null;
    this.reference = "";
    this.failure = "";
    this.denied = false;
    this.saidLost = false;
    this.openedAt = performance.now();
    this.timer = countdown();
    this.statusIcon = icon("wifi-off");
    this.statusWords = h("span");
    this.live = new Live();
    this.target = h("div", { class: "glass" });
    this.still = h("canvas", { class: "still", "aria-hidden": "true", hidden: true });
    this.stamp = h("p", { class: "stamp", hidden: true });
    this.screen = h(
      "main",
      { id: "main", class: "screen", tabindex: "-1" },
      (this.title = h("h1", { class: "sr" })),
      h("p", { class: "sr", id: "chord" }, t("seat.chord_label")),
      this.target,
      this.still,
      this.stamp,
    );
    this.link = new Link(sessionId, this.target);
    this.keys = new Keys(this.link);
    this.clipboard = new Clipboard(this.link, this.screen);
    this.picture = new Picture(this.link);
    this.notice = new SeatNotice();
    this.bar = new SeatBar(this);
    this.overlay = new Overlay();
    const seat = document.querySelector(".seat");
    put(seat, this.bar.root, this.notice.root, this.screen, this.keys.root);
    document.body.prepend(
      h(
        "a",
        {
          class: "skip",
          href: "#main",
          click: (event) => {
            event.preventDefault();
            this.link.rfb?.focus();
          },
        },
        t("nav.skip"),
      ),
    );
    seat.hidden = false;
    toastsIn(this.screen);
    this.#listen();
  }

  /** Whether what we know of the session is from now. */
  get heard() {
    return this.live.fresh;
  }

  get awayS() {
    return this.link.lostAt === null ? 0 : (performance.now() - this.link.lostAt) / 1000;
  }

  /** When the link was lost, as a wall time. */
  get lostAt() {
    return Date.now() - this.awayS * 1000;
  }

  async begin() {
    try {
      this.#take(await read(sessionId, { stay: true }));
    } catch (problem) {
      if (problem.code === "sign_in_required") {
        goToSignIn();
        return;
      }
      if (problem.code === "not_found" || problem.code === "not_allowed") {
        this.denied = true;
        this.reference = problem.reference;
        this.draw();
        return;
      }
      setTimeout(() => this.begin(), 2000);
      return;
    }
    if (["starting", "active", "held"].includes(this.session.state)) this.open("control");
    else this.draw();
    setInterval(() => this.draw(), 1000);
  }

  // ---------- what people do ----------

  open(mode) {
    this.failure = "";
    this.openedAt = performance.now();
    this.link.open(mode);
  }

  async end() {
    const changed = await endAndSave(this.session);
    if (changed?.id) this.#take(changed);
    this.#focus();
  }

  async extend() {
    const changed = await extendOnce(this.session);
    if (changed) this.#take(changed);
  }

  save() {
    saveNow(this.session);
  }

  upload() {
    putFiles(this.session);
  }

  choose() {
    this.#workspace()
      .then((workspace) => chooseFiles(workspace))
      .catch((problem) => this.#fail(problem));
  }

  async again(go) {
    try {
      await busyWhile(go, t("again.busy"), () => openAgain(this.session));
    } catch (problem) {
      this.#fail(problem);
    }
  }

  async startAgain(go) {
    try {
      await busyWhile(go, t("start.busy"), async () => start(await this.#workspace()));
    } catch (problem) {
      this.#fail(problem);
    }
  }

  hint() {
    toast(say("seat.hint"), { state: "starting", glyph: "keyboard" });
  }

  async #workspace() {
    const { items } = await get("/workspaces?limit=200");
    return items.find((each) => each.id === this.session.workspace.id) ?? items[0];
  }

  #fail(problem) {
    this.failure = words(problem);
    this.draw();
  }

  // ---------- what happens ----------

  #listen() {
    const { link, live } = this;
    link.addEventListener("change", () => this.draw());
    link.addEventListener("dropping", () => this.#keepPicture());
    link.addEventListener("attached", () => this.#setUp(link.rfb));
    link.addEventListener("live", (event) => this.#back(event.detail));
    live.addEventListener("change", () => {
      const told = live.sessions.get(sessionId);
      if (told) this.#take(told);
    });
    live.addEventListener("snapshot", () => {
      if (!live.sessions.has(sessionId) && this.session) this.#reread();
    });
    live.addEventListener("fresh", () => {
      if (!live.fresh) link.look();
      this.draw();
    });
    addEventListener("keydown", (event) => this.#chord(event), true);
    document.addEventListener("fullscreenchange", () =>
      document.body.classList.toggle("full", Boolean(document.fullscreenElement)),
    );
  }

  async #reread() {
    try {
      this.#take(await read(sessionId, { stay: true }));
    } catch {
      /* the next snapshot asks again */
    }
  }

  #take(session) {
    session.toldAt ??= performance.now();
    if (this.session && this.session.generation > session.generation) return;
    const before = this.session;
    this.session = session;
    if (!before || before.workspace.name !== session.workspace.name) {
      document.title = `${session.workspace.name} · ${t("product.name")}`;
      text(this.title, t("seat.title", { name: session.workspace.name }));
    }
    if (session.state === "closed" && !this.receipt && session.outcome !== "start_failed")
      this.#readReceipt();
    if (["closing", "closed"].includes(session.state) && this.link.state !== "down")
      this.link.stop("closing");
    this.draw();
  }

  async #readReceipt() {
    try {
      this.receipt = await get(`/receipts/${sessionId}`);
      this.draw();
    } catch {
      /* a session without a close has none */
    }
  }

  #setUp(rfb) {
    rfb.clipViewport = NARROW.matches;
    rfb.scaleViewport = this.link.mode === "view" || (NARROW.matches && this.keys.fits);
    rfb.dragViewport = this.keys.moves;
    rfb.background = "#0b0e0d";
    this.picture.setUp(rfb, { narrow: NARROW.matches, mayResize: this.link.mode === "control" });
    rfb.focusOnClick = true;
    const canvas = this.link.canvas;
    canvas?.setAttribute("aria-label", t("seat.canvas"));
    canvas?.setAttribute("aria-describedby", "chord");
    canvas?.setAttribute("role", "application");
  }

  #keepPicture() {
    const canvas = this.link.canvas;
    if (!canvas?.width) return;
    const place = canvas.getBoundingClientRect();
    const screen = this.screen.getBoundingClientRect();
    this.still.width = canvas.width;
    this.still.height = canvas.height;
    this.still.getContext("2d").drawImage(canvas, 0, 0);
    Object.assign(this.still.style, {
      left: `${place.left - screen.left}px`,
      top: `${place.top - screen.top}px`,
      width: `${place.width}px`,
      height: `${place.height}px`,
    });
    this.keys.release();
  }

  #back({ awayS, first, how, lostInput }) {
    this.still.hidden = true;
    this.saidLost = false;
    this.live.again();
    this.draw();
    this.#focus();
    if (this.link.mode === "view") {
      toast(say("watching.toast", { device: shortDevice(this.session.device_label) }), {
        state: "starting",
        glyph: "eye",
        act: { label: t("act.take_back"), run: () => this.open("control") },
      });
    } else if (!first && awayS !== null && awayS >= 1) {
      const key = how === "replay" ? "back.replayed" : lostInput ? "back.unsure" : "back.toast";
      toast(say(key, { time: times.duration(Math.max(1, awayS)) }));
    } else if (!first && awayS === null) {
      toast(say("took.toast"));
    } else if (first && !TOUCH.matches && !seen()) {
      this.hint();
    }
  }

  #focus() {
    if (this.overlay.isOpen || document.querySelector("dialog[open]")) return;
    this.link.rfb?.focus({ preventScroll: true });
  }

  /** Ctrl+Alt+Shift, let go without another key, moves the keyboard between the desktop and the bar. */
  #chord(event) {
    const all = event.ctrlKey && event.altKey && event.shiftKey;
    if (!all || !["Control", "Alt", "Shift", "Meta"].includes(event.key) || event.repeat) return;
    if (this.bar.root.contains(document.activeElement)) {
      this.#focus();
    } else {
      document.body.classList.add("bar-shown");
      this.bar.first.focus();
      this.bar.root.addEventListener("focusout", () => document.body.classList.remove("bar-shown"), {
        once: true,
      });
    }
  }

  // ---------- what is shown ----------

  /** Return [moment, view, content]: what is over the picture, and whether the picture is live, stale or gone. */
  #moment() {
    if (this.denied) return ["denied", "gone", overlays.denied];
    const { session, link } = this;
    if (!session) return ["", "gone", null];
    if (session.state === "closed")
      return session.outcome === "start_failed"
        ? ["start-failed", "gone", overlays.startFailed]
        : ["closed", "gone", overlays.closed];
    if (session.state === "closing")
      return isWaiting(session)
        ? ["storage-down", "gone", overlays.waiting]
        : ["closing", "gone", overlays.closing];
    if (link.state === "down") return this.#down(link.ending);
    if (link.state === "live") return ["", "live", null];
    if (!link.everLive) {
      const quick = (performance.now() - this.openedAt) / 1000 < OPENING_S;
      return quick ? ["", "opening", null] : ["opening", "opening", overlays.opening];
    }
    if (this.awayS < QUIET_S && this.overlay.moment !== "lost") return ["", "stale", null];
    if (link.dialling && link.rfb) return ["reconnecting", "stale", overlays.reconnecting];
    return overlays.isAboutToEnd(session)
      ? ["ending", "stale", overlays.ending]
      : ["lost", "stale", overlays.lost];
  }

  #down(ending) {
    switch (ending) {
      case "taken":
        return ["taken-over", "stale", overlays.takenOver];
      case "in_use":
        return ["in-use", "stale", overlays.inUse];
      case "used":
        return ["ticket", "gone", overlays.ticket];
      case "not_found":
        return ["denied", "gone", overlays.denied];
      case "login":
        goToSignIn();
        return ["", "stale", null];
      case "closed":
      case "closing":
        this.#reread();
        return ["opening", "gone", overlays.opening];
      default:
        return ["broken", "stale", overlays.broken];
    }
  }

  draw() {
    if (!this.session && !this.denied) return;
    const [moment, view, build] = this.#moment();
    document.body.dataset.view = view;
    document.body.dataset.moment = moment || view;
    if (this.session)
      this.bar.update({
        session: this.session,
        view,
        heard: this.heard,
        link: this.link,
        elsewhere: moment === "taken-over",
      });
    this.notice.update({ session: this.session, view, planned: this.link.planned });
    if (view !== "live" && document.body.dataset.was === "live") clearToasts();
    document.body.dataset.was = view;
    this.#drawStill(view);
    this.#drawStatus();
    if (!build) {
      this.overlay.hide();
      return;
    }
    if (this.session) this.timer.update(this.#shownSession(), this.heard);
    this.#say(moment);
    this.overlay.show(moment, this.#keyOf(moment), () => build(this.#asShown()));
  }

  /** While nothing is heard, a lost session is shown as held for at least its whole hold from the loss on. */
  #shownSession() {
    const { session } = this;
    if (leftOf(session) !== null || this.link.lostAt === null) return session;
    return {
      ...session,
      hold_remaining_s: session.hold_s,
      hold_counting: true,
      toldAt: this.link.lostAt,
      lost_at: new Date(this.lostAt).toISOString(),
      hold_deadline: null,
    };
  }

  #asShown() {
    const shown = this.session ? this.#shownSession() : null;
    return new Proxy(this, {
      get: (seat, key) => {
        const value = key === "session" ? shown : Reflect.get(seat, key, seat);
        return typeof value === "function" ? value.bind(seat) : value;
      },
    });
  }

  #keyOf(moment) {
    if (!this.session) return moment;
    const { session, link } = this;
    return JSON.stringify([
      session.generation,
      session.state,
      session.saved_as_of,
      session.pending_files,
      session.progress,
      session.step_error,
      session.step_attempts,
      session.device_label,
      session.hold_counting,
      this.heard,
      this.failure,
      this.isBlank,
      link.obstacle,
      link.planned,
      Boolean(this.receipt),
      link.ending,
      moment === "opening" && link.nextTryAt === null,
      moment === "reconnecting" && link.tries,
    ]);
  }

  /** Whether the picture has stood still for so long that it is not shown any more. */
  get isBlank() {
    const { stillSince } = this.link;
    return stillSince !== null && (performance.now() - stillSince) / 1000 > BLANK_S;
  }

  #drawStill(view) {
    if (this.isBlank) this.still.width = 0; // gone, not only hidden
    const stale = view === "stale" && this.still.width > 0 && this.link.pictureFrom !== null;
    this.still.hidden = !stale;
    this.stamp.hidden = !stale;
    if (stale) text(this.stamp, t("picture.from", { time: times.clock(this.link.pictureFrom) }));
  }

  #drawStatus() {
    const { link } = this;
    const left =
      link.nextTryAt === null ? null : Math.max(0, Math.ceil((link.nextTryAt - performance.now()) / 1000));
    const next = left === null ? t("lost.trying") : t("lost.next_try", { time: times.figures(left) });
    const key = !navigator.onLine
      ? "lost.no_network"
      : ["sign_in", "blocked"].includes(link.obstacle)
        ? `lost.obstacle_${link.obstacle}`
      : this.session?.hold_counting === false
        ? "lost.no_answer_standing"
        : link.problem?.status
          ? "lost.not_ready"
          : "lost.no_answer";
    text(this.statusWords, t(key, { next }));
    if (this.session) rememberWait(endOf(this.#shownSession()));
  }

  #say(moment) {
    if (["lost", "ending"].includes(moment) && !this.saidLost) {
      this.saidLost = true;
      announce(t("lost.said", { time: times.minute(endOf(this.#shownSession())) }), { now: true });
    }
    if (moment === "taken-over" && this.overlay.moment !== moment) announce(t("taken.title"), { now: true });
    if (moment === "closed" && this.overlay.moment !== moment) announce(t("closed.title"));
  }
}

function seen() {
  try {
    const known = localStorage.getItem(SEEN_KEY);
    localStorage.setItem(SEEN_KEY, "1");
    return Boolean(known);
  } catch {
    return true;
  }
}

const seat = new Seat();
await seat.begin();
