// A stream to a desktop that survives its links: `continuity.v1` for browsers. It goes underneath an unmodified noVNC:
// each stream comes as a port that looks like a WebSocket to it and stays open while links come and go.
//
// Not a page and no viewer. The twin of core/continuity/client.py: whatever comes from an older socket than the newest
// one dialled counts for nothing, a code without a word is the network, and the key lives in this page's memory only,
// where it cannot be exported. Source: docs/protocol.md. Use:
//
//   const channel = new Channel({ dial: "wss://desk.example:443", aud: "wss://desk.example:443", tell });
//   channel.open({ ticket, path });
//   // tell("stream", { port, resync, ... }): new RFB(element, port); tell("replayed"), tell("lost"), tell("ended", { step })
//
// For pages of others it stands, unchanged within a version, at /channel/v1/channel.js, with its types; how it is used
// there is told in docs/channel.md. It needs attempt.js and wire.js beside it and nothing else of ours.
// @ts-self-types="./channel.d.ts"

import { Attempt } from "./attempt.js";
import { attemptText, decode, importKey, NO_LEG, Ring, sign, SUBPROTOCOL } from "./wire.js";

const MESSAGE_BYTES_MAX = 65536;
const UP_RING_BYTES = 256 << 10; // beyond it no input is taken
const UP_RING_BYTES_MAX = 1 << 20; // beyond it the stream is given up: what noVNC sends by itself is never dropped
const ACK_DOWN_BYTES = 65536;
const ACK_MS = 50;
const SILENT_MS = 25_000;
const PROBE_MS = 3_000;
const DIAL_MS = 15_000;
const JITTER_MS = 250;
const BACKOFF_MS = 500;
const BACKOFF_MS_MAX = 15_000;
const RETRY_MS_MAX = 60_000;
const REDIRECTS_MAX = 3;
const LATE_MS = 2_000; // a timer that fires later than this was throttled, or the machine slept: ask first
const JUMP_MS = 10_000;
const OFFSET_MAX = 2 ** 52;
const NOTE_CHARACTERS_MAX = 200;
const PATH = /^\/s\/[a-z0-9]{1,16}\/ws$/;
const BROKEN = new Set([1002, 1007, 1009, 4400, 4413]);
const BY_ITSELF = new Set([4408, 4429, 4481, 4483, 4503, 4504]);

// ---------- what noVNC gets ----------

/** One stream as a socket: noVNC looks at own properties, sets the on… ones, and never hears of a lost link. */
function makePort(channel, number) {
  const port = {
    binaryType: "arraybuffer",
    protocol: "",
    readyState: "open",
    onopen: null,
    onmessage: null,
    onerror: null,
    onclose: null,
    send: (view) => channel.send(number, view),
    close: () => {
      if (port.readyState === "closed") return;
      port.readyState = "closed";
      channel.portClosed(number);
      queueMicrotask(() => port.onclose?.({ code: 1000, reason: "", wasClean: true }));
    },
  };
  return port;
}

// ---------- the channel ----------

export class Channel {
  #tell;
  #dialTo;
  #aud;
  #path = "";
  #ticket = "";
  #auth = ""; // a ticket that proves a login, for the next attempt
  #askedLogin = false;
  #attempt = null; // the newest; older ones count for nothing
  #number = 0;
  #key = null; // a promise of a CryptoKey
  #sid = "";
  #grant = 0;
  #leg = NO_LEG;
  #attempts = 0;
  #tries = 0;
  #redirects = 0;
  #failures = 0;
  #broken = false;
  #doubt = false;
  #up = new Ring();
  #received = 0;
  #acknowledged = 0;
  #refusal = null;
  #range = null;
  #port = null;
  #stream = 0;
  #dialAt = null;
  #giveUpAt = null;
  #ackAt = null;
  #timer = 0;
  #armedFor = null;
  #dialledAt = 0;
  #askedAt = null;
  #wall = Date.now();
  phase = "idle"; // idle, waiting, dialling, open, down
  latencyMs = null; // how long the last answer took, from here to the service and back
  heardAt = 0; // performance.now() of the last byte
  askedSince = null; // performance.now() of a question that has no answer yet

  /** `tell(kind, facts)` hears: dialling, wait, stream, replayed, lost, full, roomy, latency, planned, ended. */
  constructor({ dial, aud, tell }) {
    this.#dialTo = dial;
    this.#aud = aud;
    this.#tell = tell;
    this.#listen(true);
  }

  get hasKey() {
    return this.#key !== null;
  }

  /** True while bytes of the user are taken: attached, and the ring has room. */
  get takesInput() {
    return this.phase === "open" && this.#up.size < UP_RING_BYTES;
  }

  get bufferedAmount() {
    return this.phase === "open" ? (this.#attempt?.socket?.bufferedAmount ?? 0) : 0;
  }

  /** Begin, or begin anew, with a fresh ticket. */
  open({ ticket, path }) {
    this.#ticket = ticket;
    this.#path = path;
    this.#auth = "";
    this.#askedLogin = false;
    this.#key = null;
    this.#forget();
    this.#broken = this.#doubt = false;
    this.#tries = 0;
    this.#dial();
  }

  /** The service wanted a login: a fresh ticket proves it, and the same stream goes on. False without a key. */
  again({ ticket }) {
    if (this.phase !== "down" || !this.#key) return false;
    this.#auth = ticket;
    this.#tries = 0;
    this.#listen(true);
    this.#dial();
    return true;
  }

  /** The network is back, or somebody looks: dial at once what would be dialled, ask what is open. */
  hurry() {
    const hangs = this.phase === "dialling" && this.#key && performance.now() - this.#dialledAt > PROBE_MS;
    if (this.phase === "waiting" || hangs) {
      this.#tries = 0;
      this.#dial();
    } else {
      this.probe();
    }
  }

  /** Ask whether the other end is there; the answer has three seconds. */
  probe() {
    if (this.phase !== "open") return;
    this.#giveUpAt = Math.min(performance.now() + PROBE_MS, this.#giveUpAt ?? Infinity);
    this.#say({ h: 1 });
    this.#arm();
  }

  /** Ask how long an answer takes; decides nothing. Something else on its way makes the question void. */
  measure() {
    if (this.phase !== "open" || this.askedSince !== null) return;
    this.askedSince = performance.now();
    this.#askedAt = this.#up.size ? null : this.askedSince;
    this.#say({ h: 1 });
  }

  /** Somebody else knows that nobody answers. */
  giveUp() {
    if (this.phase === "open" || this.phase === "dialling") this.#lose("silent");
  }

  /** Leave on purpose: the session is held, or ended. */
  leave({ end = false } = {}) {
    if (this.phase === "open") this.#say({ t: "bye", end });
    this.#attempt?.leave(1000);
    this.#stop();
  }

  /** End without a word. */
  #stop() {
    this.phase = "down";
    this.#number += 1;
    this.#key = null;
    this.#dialAt = this.#giveUpAt = this.#ackAt = null;
    this.#leaveSocket();
    this.#arm();
    this.#listen(false);
  }

  // ---------- what noVNC does ----------

  /** Bytes of noVNC: copied, because it uses its buffer again. What it sends by itself is never dropped. */
  send(stream, view) {
    if (stream !== this.#stream || this.phase === "down") return;
    const bytes = new Uint8Array(view.buffer ?? view, view.byteOffset ?? 0, view.byteLength).slice();
    if (!bytes.length) return;
    const roomy = this.takesInput;
    this.#askedAt = null; // its acknowledgement may come later than at once
    this.#up.append(bytes);
    if (this.phase === "open") this.#put(bytes);
    if (this.#up.size > UP_RING_BYTES_MAX) this.#break("more to send than is kept");
    else if (roomy && !this.takesInput) this.#tell("full", {});
  }

  portClosed(stream) {
    if (stream === this.#stream) this.#port = null;
  }

  // ---------- sockets ----------

  #dial() {
    this.#leaveSocket();
    const number = ++this.#number;
    this.phase = "dialling";
    this.#dialAt = this.#ackAt = null;
    this.#dialledAt = performance.now();
    this.#giveUpAt = this.#dialledAt + DIAL_MS;
    this.#refusal = null;
    this.#tries += 1;
    this.#try(() => {
      this.#attempt = new Attempt(this.#dialTo + this.#path, SUBPROTOCOL, {
        opened: () => (this.#failures = 0),
        message: (data) => this.#hear(data),
        closed: (code) => this.#closed(code),
      });
    });
    if (number !== this.#number) return;
    this.#arm();
    this.#tell("dialling", { tries: this.#tries, failures: this.#failures });
  }

  #try(knock) {
    try {
      knock();
    } catch {
      this.#failures += 1;
      this.#lose("network");
    }
  }

  #leaveSocket() {
    this.#attempt?.leave();
    this.#attempt = null;
    this.askedSince = this.#askedAt = null;
  }

  #say(message) {
    this.#attempt?.send(JSON.stringify(message));
  }

  #put(bytes) {
    for (let at = 0; at < bytes.length; at += MESSAGE_BYTES_MAX)
      this.#attempt?.send(bytes.subarray(at, at + MESSAGE_BYTES_MAX));
  }

  #hear(data) {
    this.heardAt = performance.now();
    if (typeof data !== "string") {
      if (this.phase === "open") this.#deliver(data);
      else this.#break("bytes before the answer");
      return;
    }
    if (this.phase === "open") this.#giveUpAt = performance.now() + SILENT_MS;
    let message = null;
    try {
      message = JSON.parse(data);
    } catch { /* told below */ }
    if (message === null || typeof message !== "object" || Array.isArray(message)) this.#break("no message");
    else if (this.phase === "open") this.#take(message);
    else this.#answer(message);
    this.#arm();
  }

  #deliver(data) {
    const now = performance.now();
    this.#giveUpAt = now + SILENT_MS;
    this.#received += data.byteLength;
    const stream = this.#stream;
    this.#port?.onmessage?.({ data });
    if (stream !== this.#stream || this.phase !== "open") return; // what it did with them ended the stream
    if (this.#received - this.#acknowledged >= ACK_DOWN_BYTES) this.#acknowledge();
    else if (this.#ackAt === null && data.byteLength) this.#ackAt = now + ACK_MS;
    this.#arm();
  }

  #acknowledge() {
    this.#ackAt = null;
    this.#acknowledged = this.#received;
    this.#say({ a: this.#received });
  }

  // ---------- before the answer ----------

  #answer(message) {
    const { t } = message;
    if (t === "hello" && typeof message.c === "string") this.#first(message.c);
    else if (t === "wait") {
      this.#giveUpAt = performance.now() + SILENT_MS;
      this.#tell("wait", { why: String(message.why), percent: message.pct ?? null });
    } else if (t === "opened" && !this.#key) this.#opened(message);
    else if (t === "resumed" && this.#key && message.n === this.#attempts) this.#resumed(message);
    else if (t === "no") this.#refusal = message;
    else if (t === "pause") this.#planned(message);
    else if (["opened", "resumed", undefined].includes(t)) this.#break("an answer to nothing");
  }

  async #first(challenge) {
    const number = this.#number;
    if (!this.#key) {
      const auth = this.#ticket;
      this.#ticket = "";
      this.#say({ t: "open", aud: this.#aud, auth, can: [] });
      return;
    }
    const fields = {
      aud: this.#aud,
      sid: this.#sid,
      grant: this.#grant,
      leg: this.#leg,
      n: ++this.#attempts,
      rx: this.#received,
      have: this.#up.base,
      end: this.#up.end,
    };
    const login = this.#auth ? { auth: this.#auth } : {};
    this.#askedLogin = this.#auth !== "";
    this.#auth = "";
    const mac = await sign(await this.#key, attemptText({ ...fields, challenge }));
    if (number === this.#number) this.#say({ t: "resume", ...fields, mac, ...login });
  }

  #opened(message) {
    this.#sid = message.sid;
    this.#grant = message.grant;
    this.#attempts = 0;
    if (message.key) {
      const bytes = decode(message.key);
      this.#key = importKey(bytes);
      this.#key.then(() => bytes.fill(0));
    }
    this.#begin(message, false);
  }

  #resumed(message) {
    if (message.how !== "replay") {
      const unsure = this.#up.size > 0 && !(message.was >= this.#up.end);
      this.#doubt ||= unsure;
      this.#begin(message, true);
      return;
    }
    const taken = message.rx;
    if (message.leg !== this.#leg || !Number.isSafeInteger(taken) || !this.#up.holds(taken)) {
      this.#break("an answer about another stream");
    } else if (this.#up.checksum(taken) !== message.x) {
      this.#end(4403, "copied", "click", {}); // this memory is a copy of another page's
    } else {
      this.#up.acknowledge(taken);
      this.#attached();
      this.#acknowledged = this.#received;
      for (const chunk of this.#up.chunks()) this.#put(chunk);
      this.#tell("replayed", { gapS: message.gap ?? null });
    }
  }

  #begin(message, resync) {
    const lostInput = this.#doubt;
    this.#doubt = false;
    this.#forget();
    this.#leg = message.leg;
    this.#stream += 1;
    this.#port = makePort(this, this.#stream);
    this.#attached();
    const facts = { mode: message.mode ?? "control", gapS: message.gap ?? null };
    this.#tell("stream", { port: this.#port, resync, lostInput, ...facts });
  }

  #attached() {
    this.phase = "open";
    this.#askedLogin = false;
    this.#tries = this.#redirects = 0;
    this.#giveUpAt = performance.now() + SILENT_MS;
    this.#range = null;
  }

  /** Everything of the old stream is void; unacknowledged input is never sent again. */
  #forget() {
    this.#up = new Ring();
    this.#received = this.#acknowledged = 0;
    this.#leg = NO_LEG;
    this.#ackAt = null;
  }

  // ---------- after the answer ----------

  #take(message) {
    if (message.t === undefined && "a" in message) {
      const full = !this.takesInput;
      this.#answered();
      if (!isOffset(message.a) || !this.#up.acknowledge(message.a)) this.#break("an acknowledgement that lies");
      else if (full && this.takesInput) this.#tell("roomy", {});
    } else if (message.t === undefined && "h" in message) {
      if (message.h === this.#received) this.#acknowledge();
      else this.#break("bytes are missing or doubled");
    } else if (message.t === "drain" && Array.isArray(message.after)) {
      const [low, high] = message.after;
      this.#range = [low, high];
      if (PATH.test(message.to ?? "")) this.#path = message.to;
      this.#dialAt = performance.now() + low + Math.random() * (high - low);
      if (Number.isSafeInteger(message.back)) this.#planned(message);
    } else if (message.t === "pause") {
      this.#planned(message);
    } else if (message.t === "taken") {
      this.#refusal = { code: 4409, why: "taken", next: "click", by: String(message.by ?? "").slice(0, 64) };
    } else if (message.t === "no") {
      this.#refusal = message;
    }
  }

  #answered() {
    if (this.#askedAt !== null) {
      this.latencyMs = performance.now() - this.#askedAt;
      this.#tell("latency", { ms: this.latencyMs });
    }
    this.askedSince = this.#askedAt = null;
  }

  /** A pause of the service, for people: what is done is the same as without it. */
  #planned({ begin, back, note }) {
    this.#tell("planned", {
      begin: Number.isSafeInteger(begin) ? begin : null, // UTC milliseconds; null: it has begun
      back: Number.isSafeInteger(back) ? back : null, // null: there is none any more
      note: typeof note === "string" ? note.slice(0, NOTE_CHARACTERS_MAX) : "",
    });
  }

  // ---------- how it ends ----------

  #closed(code) {
    const refusal = this.#refusal;
    this.#refusal = null;
    this.#failures += this.#attempt?.socket ? 0 : 1;
    this.#leaveSocket();
    if (BROKEN.has(code)) return this.#break(`closed with ${code}`);
    // Proxies invent codes; only a `no` decides. Asked again, the server gives the same answer.
    if (!refusal) return this.#lose("network", code === 4481 ? 0 : null);
    if (Number.isSafeInteger(refusal.back)) this.#planned(refusal);
    if (!BY_ITSELF.has(refusal.code)) {
      // A login was proved and the key is void all the same: only a new ticket is left.
      if (refusal.code === 4401 && this.#askedLogin) this.#key = null;
      return this.#end(refusal.code, refusal.why, refusal.next, refusal);
    }
    let retry = refusal.retry ?? null;
    if (refusal.code === 4483) {
      const goes = PATH.test(refusal.to ?? "") && ++this.#redirects <= REDIRECTS_MAX;
      if (goes) this.#path = refusal.to;
      retry = goes ? 0 : retry || null; // never round and round without a pause
    }
    return this.#lose(refusal.why, retry);
  }

  /** Somebody broke the protocol: one resync, then nothing more by itself. */
  #break(why) {
    if (this.#broken || !this.#key) {
      this.#end(4400, why, "report", {});
      return;
    }
    this.#broken = true;
    this.#doubt ||= this.#up.size > 0;
    this.#forget();
    this.#stream += 1;
    this.#lose("protocol");
  }

  #lose(why, retryMs = null) {
    const wasOpen = this.phase === "open";
    const hung = why === "silent" && this.phase === "dialling" && !this.#attempt?.socket;
    if (hung) this.#failures += 1;
    this.#number += 1; // the socket is left: what it still says counts for nothing
    this.#leaveSocket();
    this.#giveUpAt = this.#ackAt = null;
    if (!this.#key) {
      // The ticket may be used: without a key only a new one leads anywhere.
      this.#end(1006, why, "open", { retry: retryMs });
      return;
    }
    this.phase = "waiting";
    // What hung has waited long enough, and nobody was asked for anything.
    const pause = hung ? Math.random() * JITTER_MS : this.#pause(retryMs);
    this.#dialAt = performance.now() + pause;
    this.#arm();
    this.#tell("lost", { retryInMs: pause, why, wasOpen, failures: this.#failures });
  }

  #pause(retryMs) {
    const range = this.#range;
    this.#range = null;
    if (range) return range[0] + Math.random() * (range[1] - range[0]);
    if (retryMs !== null) return Math.min(RETRY_MS_MAX, retryMs * (1 + Math.random() / 2));
    if (this.#tries === 0) return Math.random() * JITTER_MS;
    return Math.random() * Math.min(BACKOFF_MS_MAX, BACKOFF_MS * 2 ** this.#tries);
  }

  #end(code, why, step, facts) {
    this.#number += 1;
    this.#leaveSocket();
    this.phase = "down";
    if (code !== 4401) this.#key = null; // only a login brings the same key back; any other end asked with it is the same
    this.#dialAt = this.#giveUpAt = this.#ackAt = null;
    this.#arm();
    if (step !== "open") this.#listen(false);
    this.#tell("ended", { code, why, step, refusal: facts });
  }

  // ---------- time ----------

  /** One timer for whatever is due next; a late one only ever asks or dials. */
  #arm() {
    const due = [this.#dialAt, this.#giveUpAt, this.#ackAt, this.#attempt?.dueAt ?? null].filter((at) => at !== null);
    const at = due.length ? Math.min(...due) : null;
    if (at === this.#armedFor) return;
    clearTimeout(this.#timer);
    this.#armedFor = at;
    if (at !== null) this.#timer = setTimeout(() => this.#tick(at), Math.max(0, at - performance.now()));
  }

  #tick(meant) {
    this.#armedFor = null;
    const now = performance.now();
    const late = now - meant > LATE_MS;
    if (this.#dialAt !== null && now >= this.#dialAt) {
      this.#dial();
    } else if (this.#giveUpAt !== null && now >= this.#giveUpAt) {
      if (late && this.phase === "open") {
        this.#giveUpAt = null;
        this.probe();
      } else {
        this.#lose("silent");
      }
    } else if (this.#attempt?.dueAt && now >= this.#attempt.dueAt) {
      this.#try(() => this.#attempt.knock());
    } else if (this.#ackAt !== null && now >= this.#ackAt) {
      this.#acknowledge();
    }
    this.#arm();
  }

  #awake = (event) => {
    // A page that nobody sees comes back with the network, too, and with its machine.
    if (!document.hidden || event.type === "online" || event.type === "resume") this.hurry();
  };

  /** The wall clock jumped: the machine slept (or this page was throttled), and the socket may be dead. */
  #look = () => {
    const was = this.#wall;
    this.#wall = Date.now();
    if (Math.abs(this.#wall - was) > JUMP_MS) this.hurry();
  };

  #looking = 0;

  #listen(on) {
    const change = on ? addEventListener : removeEventListener;
    change("online", this.#awake);
    change("pageshow", this.#awake);
    const changeDocument = (on ? document.addEventListener : document.removeEventListener).bind(document);
    changeDocument("visibilitychange", this.#awake);
    changeDocument("resume", this.#awake); // a page that was frozen goes on
    clearInterval(this.#looking);
    this.#looking = on ? setInterval(this.#look, 1_000) : 0;
  }
}

function isOffset(value) {
  return Number.isSafeInteger(value) && value >= 0 && value < OFFSET_MAX;
}
