// One desktop's link: ticket, websocket, noVNC, and what follows each end. Reconnects by itself after anything that
// is only the network; stays down after what another device or a person decided. Who controls a desktop has a channel
// (channel.js), whose stream survives lost links: noVNC is kept, and nothing is typed into the picture meanwhile. Who
// only looks has a link of its own on `binary`: after a cut a new ticket, so that consent is looked at again.
//
// States: "idle", "opening", "starting" (the desktop is not ready), "live" (connected, the picture is there), "lost"
// (trying again), "down" (ended; `ending` says why). Source: gateway.md 9.4, 9.5, 9.8.

import RFB from "/assets/novnc/core/rfb.js";
import { post } from "./api.js";
import { Channel } from "./channel.js";
import { FAILURES_BEFORE_ASKING, whyNot } from "./reach.js";

const JITTER_MS = 250;
const BACKOFF_MS = 500;
const BACKOFF_MS_MAX = 15_000;
const RETRY_MS_MAX = 60_000;
const OPEN_MS_MAX = 15_000; // from the dial to the answer, unless the service says "wait"
const WAIT_MS_MAX = 25_000; // a `wait` comes at least every 10 s
const PICTURE_LOOK_MS = 16;
const PICTURE_MS_MAX = 5_000;
const LOOK_MS = 1_000;
const UNSENT_MS = 2_000; // input that the network does not take for so long is worth a look
const PROBE_MS = 4_000;
const MEASURE_MS = 10_000; // a picture that somebody sees is asked about so often, and
const MEASURE_BUSY_MS = 4_000; // so often while its user does something
const BUSY_MS = 60_000;
const QUESTION_MS = 2_000; // without an answer for so long, the picture is not called live

/** What a close code means for this page; what is not listed is the network. Source: core/close_codes.py. */
const ENDINGS = {
  1000: "left",
  4401: "login",
  4403: "used",
  4404: "not_found",
  4409: "taken",
  4410: "closed",
  4423: "closing",
  4480: "closed",
  4482: "revoked",
  4484: "in_use",
  1002: "broken",
  1007: "broken",
  1009: "broken",
  4400: "broken",
  4413: "broken",
};

export class Link extends EventTarget {
  #socket = null;
  #channel = null;
  #timer = 0;
  #tries = 0;
  #round = 0;
  #unsentSince = null;
  #probing = false;
  #pictured = false;
  #measuredAt = 0;
  #usedAt = 0;
  #asking = false;
  #pixel = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });

  constructor(sessionId, target) {
    super();
    this.sessionId = sessionId;
    this.target = target;
    this.state = "idle";
    this.mode = "control";
    this.ending = null;
    this.refusal = null;
    this.rfb = null;
    this.lostAt = null; // performance.now() of the loss
    this.pictureFrom = null; // wall time of the last moment the picture was live
    this.stillSince = null; // performance.now() since when the picture stands still
    this.obstacle = null; // why no socket opens, as reach.js tells it
    this.nextTryAt = null;
    this.quietSince = null;
    this.problem = null;
    this.waiting = "";
    this.everLive = false;
    this.lostInput = false;
    this.planned = null; // a pause that the service announced: { begin, back, note }
    addEventListener("online", () => this.tryNow());
    addEventListener("pageshow", () => this.tryNow());
    addEventListener("offline", () => this.look());
    const used = () => (this.#usedAt = performance.now());
    for (const event of ["keydown", "pointermove"]) target.addEventListener(event, used, { capture: true });
    document.addEventListener("resume", () => this.tryNow());
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return;
      if (this.state === "live") this.look();
      else this.tryNow();
    });
    setInterval(() => this.#watch(), LOOK_MS);
  }

  get tries() {
    return this.#tries;
  }

  /** Open the link, also again after it was down: a click is a new ticket. */
  open(mode = "control") {
    this.mode = mode;
    this.ending = null;
    this.refusal = null;
    this.#tries = 0;
    if (this.state !== "lost") this.#set("opening");
    this.#dial();
  }

  /** How long an answer took at last, null where it is not known. */
  get latencyMs() {
    return this.state === "live" ? (this.#channel?.latencyMs ?? null) : null;
  }

  /** Try at once, where a try is due anyway. */
  tryNow() {
    if (this.#channel?.hasKey && this.state === "lost") {
      this.#channel.hurry();
    } else if (this.state === "lost" || (this.state === "opening" && this.nextTryAt !== null)) {
      this.#tries = 0;
      this.#dial();
    }
  }

  /** Leave on purpose; the desktop is held. */
  leave() {
    this.#end("left");
  }

  /** Stop without a word, because the session is over. */
  stop(ending) {
    this.#end(ending);
  }

  /** Ask the service whether it answers; a link whose service does not answer is lost, not live. */
  async look() {
    if (this.state !== "live" || this.#probing) return;
    this.#probing = true;
    const round = this.#round;
    this.quietSince ??= performance.now();
    this.#tell("change");
    try {
      await fetch("/healthz", { cache: "no-store", signal: AbortSignal.timeout(PROBE_MS) });
      if (round === this.#round) this.quietSince = null;
    } catch {
      if (round === this.#round && this.state === "live") {
        if (this.#channel) this.#channel.giveUp();
        else this.#lose();
      }
    }
    this.#probing = false;
    this.#tell("change");
  }

  // ---------- one try ----------

  async #dial() {
    clearTimeout(this.#timer);
    this.#drop();
    const round = ++this.#round;
    this.nextTryAt = null;
    this.#tries += 1;
    this.dialling = true;
    this.#tell("change");
    let ticket;
    try {
      ticket = await post(
        `/sessions/${this.sessionId}/tickets`,
        { mode: this.mode, device_label: "" },
        { wait_ms: OPEN_MS_MAX, stay: true },
      );
    } catch (problem) {
      if (round === this.#round) this.#refused(problem);
      return;
    }
    if (round !== this.#round) return;
    this.problem = null;
    if (this.mode === "control") this.#carry(round, ticket);
    else this.#connect(round, ticket);
  }

  /** Open a stream that survives its links. */
  #carry(round, ticket) {
    const dial = audience();
    this.#channel = new Channel({
      dial,
      aud: dial,
      tell: (kind, facts) => {
        if (round === this.#round) this.#heard(round, kind, facts);
      },
    });
    this.#channel.open(ticket);
  }

  #heard(round, kind, facts) {
    switch (kind) {
      case "dialling":
        this.nextTryAt = null;
        this.#wonder(facts.failures);
        break;
      case "latency":
        break;
      case "wait":
        this.waiting = facts.why;
        this.#set("starting");
        return;
      case "stream":
        this.lostInput = facts.lostInput;
        if (this.rfb) this.#part();
        this.#attach(round, facts.port);
        return;
      case "replayed":
        this.rfb.viewOnly = false;
        if (this.#pictured) this.#lives("replay");
        return;
      case "lost":
        this.#away(facts.retryInMs);
        return;
      case "planned":
        this.planned = facts.back === null ? null : facts;
        break;
      case "full":
      case "roomy":
        // What the desktop does not take is not typed blindly; noVNC's own messages go on.
        if (this.rfb) this.rfb.viewOnly = kind === "full";
        return;
      case "ended":
        this.refusal = facts.refusal.code ? facts.refusal : null;
        if (facts.step === "login" && this.#channel.hasKey) this.#signedIn(round);
        else if (facts.step === "open") this.#lose(facts.refusal.retry ?? null);
        else this.#closed({ code: facts.code });
        return;
    }
    this.#tell("change");
  }

  /** Several sockets did not open: ask what stands in between, and say it; the channel goes on trying. */
  async #wonder(failures) {
    if (failures === 0) this.obstacle = null;
    if (failures < FAILURES_BEFORE_ASKING || this.#asking) return;
    this.#asking = true;
    const round = this.#round;
    const found = await whyNot(location.origin);
    this.#asking = false;
    if (round === this.#round && this.state !== "live") this.obstacle = found;
    this.#tell("change");
  }

  /** The service wants a login for this return: where one is alive nobody is asked, and nothing is lost. */
  async #signedIn(round) {
    this.#away(0);
    try {
      const ticket = await post(
        `/sessions/${this.sessionId}/tickets`,
        { mode: this.mode, device_label: "" },
        { wait_ms: OPEN_MS_MAX, stay: true },
      );
      if (round === this.#round) this.#channel.again(ticket);
    } catch (problem) {
      if (round === this.#round) this.#refused(problem);
    }
  }

  /** The link is gone and the stream is not: the picture stands still, hidden, and takes no input. */
  #away(retryMs) {
    if (this.state === "live") {
      this.#keep();
      this.lostAt = performance.now();
    }
    if (this.rfb) this.rfb.viewOnly = true;
    this.nextTryAt = performance.now() + retryMs;
    this.#set(this.everLive ? "lost" : "opening");
  }

  #connect(round, ticket) {
    const origin = location.origin.replace(/^http/, "ws");
    const socket = new WebSocket(origin + ticket.path, "binary");
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    // noVNC sets the on… properties later; this listener comes first, so that the last picture is kept before it goes.
    socket.addEventListener("close", (event) => {
      if (round === this.#round) this.#closed(event);
    });
    let limit = setTimeout(() => socket.close(), OPEN_MS_MAX);
    socket.onopen = () =>
      socket.send(JSON.stringify({ t: "open", aud: audience(), auth: ticket.ticket, can: [] }));
    socket.onmessage = (event) => {
      if (round !== this.#round || typeof event.data !== "string") return;
      const told = JSON.parse(event.data);
      clearTimeout(limit);
      if (told.t === "wait") {
        limit = setTimeout(() => socket.close(), WAIT_MS_MAX);
        this.waiting = told.why;
        this.#set("starting");
      } else if (told.t === "no") {
        this.refusal = told;
      } else if (told.t === "opened") {
        this.#attach(round, socket); // in this same event: the next message is the desktop's first byte
      }
    };
    socket.addEventListener("close", () => clearTimeout(limit));
  }

  #attach(round, socket) {
    this.service = null;
    this.#pictured = false;
    const rfb = new RFB(this.target, socket, { shared: true });
    this.rfb = rfb;
    this.dialling = true;
    rfb.viewOnly = this.mode === "view";
    this.#tell("attached");
    rfb.addEventListener("connect", () => {
      const since = performance.now();
      const look = () => {
        if (round !== this.#round || rfb !== this.rfb) return;
        if (this.#hasPicture() || performance.now() - since > PICTURE_MS_MAX) this.#sees();
        else setTimeout(look, PICTURE_LOOK_MS); // not by animation frames: a hidden page gets none
      };
      look();
    });
    rfb.addEventListener("securityfailure", () => this.#end("broken"));
    rfb.addEventListener("clipboard", (event) => {
      this.dispatchEvent(new CustomEvent("clipboard", { detail: event.detail.text }));
    });
  }

  #hasPicture() {
    const canvas = this.canvas;
    if (!canvas || !canvas.width || !canvas.height) return false;
    // One pixel is copied out: reading from noVNC's own canvas would make a browser keep it in slow memory.
    this.#pixel.drawImage(canvas, canvas.width >> 1, canvas.height >> 1, 1, 1, 0, 0, 1, 1);
    return this.#pixel.getImageData(0, 0, 1, 1).data[3] === 255;
  }

  /** The canvas that noVNC draws on, null while there is none. */
  get canvas() {
    return this.target.querySelector("canvas");
  }

  /** A new stream shows its first picture; if its link is away by now, it lives when it is replayed. */
  #sees() {
    this.#pictured = true;
    if (!this.#channel || this.#channel.phase === "open") this.#lives("resync");
  }

  #lives(how) {
    const away = this.lostAt === null ? null : performance.now() - this.lostAt;
    this.lostAt = null;
    this.quietSince = null;
    this.stillSince = null;
    this.obstacle = null;
    this.#measuredAt = 0;
    this.dialling = false;
    this.#tries = 0;
    this.pictureFrom = Date.now();
    const first = !this.everLive;
    this.everLive = true;
    this.#set("live");
    this.dispatchEvent(
      new CustomEvent("live", {
        detail: { awayS: away === null ? null : away / 1000, first, how, lostInput: this.lostInput },
      }),
    );
  }

  // ---------- how it ends ----------

  #closed(event) {
    const refusal = this.refusal;
    this.refusal = null;
    const ending = ENDINGS[event.code];
    if (event.code === 4423 || ending) {
      this.said = refusal;
      this.#end(ending);
      return;
    }
    this.#lose(refusal?.retry ?? null);
  }

  #refused(problem) {
    this.problem = problem;
    if (problem.status === 0 || problem.retryable || problem.status >= 500) {
      this.#lose(problem.status ? 1000 * (problem.facts.retry_after_s ?? 1) : null);
      return;
    }
    const ending = {
      sign_in_required: "login",
      not_found: "not_found",
      not_allowed: "not_found",
      hold_expired: "closed",
      transition_refused: "closed",
    }[problem.code];
    this.#end(ending ?? "broken");
  }

  #lose(retryMs = null) {
    this.#drop();
    this.#round += 1;
    this.dialling = false;
    if (this.state === "live") this.lostAt = performance.now();
    const round = this.#round;
    const wait = this.#pause(retryMs);
    this.nextTryAt = performance.now() + wait;
    this.#timer = setTimeout(() => {
      if (round === this.#round) this.#dial();
    }, wait);
    this.#set(this.everLive ? "lost" : "opening");
  }

  #pause(retryMs) {
    if (retryMs !== null) return Math.min(RETRY_MS_MAX, retryMs * (1 + Math.random() / 2));
    if (this.#tries === 0) return Math.random() * JITTER_MS;
    return Math.random() * Math.min(BACKOFF_MS_MAX, BACKOFF_MS * 2 ** this.#tries);
  }

  #end(ending) {
    clearTimeout(this.#timer);
    // The sign-in page says until when the desktop waits; the service may not have said so yet.
    if (ending === "login" && this.state === "live") this.lostAt = performance.now();
    this.#drop();
    this.#round += 1;
    this.nextTryAt = null;
    this.dialling = false;
    this.ending = ending;
    this.#set("down");
  }

  #drop() {
    this.#part();
    this.#channel?.leave();
    this.#channel = null;
  }

  #keep() {
    this.stillSince = this.quietSince ?? performance.now();
    this.pictureFrom = Date.now() - (performance.now() - this.stillSince);
    this.#tell("dropping"); // the last moment to keep the picture
  }

  /** Part with noVNC, and with the socket that was its own. */
  #part() {
    if (this.state === "live") this.#keep();
    const { rfb } = this;
    this.rfb = null;
    if (rfb) rfb.disconnect();
    const socket = this.#socket;
    this.#socket = null;
    if (!rfb && socket && socket.readyState < WebSocket.CLOSING) socket.close(1000);
    this.target.replaceChildren();
  }

  // ---------- is it still there? ----------

  #watch() {
    if (this.state !== "live") return;
    const now = performance.now();
    const unsent = (this.#channel ?? this.#socket)?.bufferedAmount > 0;
    this.#unsentSince = unsent ? (this.#unsentSince ?? now) : null;
    if (this.#unsentSince !== null && now - this.#unsentSince > UNSENT_MS) {
      this.quietSince ??= this.#unsentSince;
      this.look();
    }
    else if (!this.#probing && this.#channel?.heardAt > this.quietSince) this.quietSince = null;
    this.#measure(now);
    if (this.quietSince !== null) this.#tell("change");
  }

  /** A picture that moves not may be one that nobody sends any more: ask, while somebody looks at it. */
  #measure(now) {
    const asked = this.#channel?.askedSince ?? null;
    if (asked !== null && now - Math.max(asked, this.#channel.heardAt) > QUESTION_MS) {
      if (this.quietSince === null) this.#channel.probe();
      this.quietSince ??= asked;
      this.look();
    }
    const busy = now - this.#usedAt < BUSY_MS;
    if (document.hidden || now - this.#measuredAt < (busy ? MEASURE_BUSY_MS : MEASURE_MS)) return;
    this.#measuredAt = now;
    this.#channel?.measure();
  }

  #set(state) {
    this.state = state;
    this.#tell("change");
  }

  #tell(kind) {
    this.dispatchEvent(new Event(kind));
  }
}

/** Return this service's address as a browser dials it, the port always there: what `aud` must be. */
function audience() {
  const secure = location.protocol === "https:";
  return `${secure ? "wss" : "ws"}://${location.hostname}:${location.port || (secure ? 443 : 80)}`;
}
