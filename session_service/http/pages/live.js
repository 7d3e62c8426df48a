// The live stream of sessions and alarms. Keeps the newest word on each session and when it came, by the clock that
// only runs forward. Never guesses: when nothing comes, `fresh` is false and `heard` says since when.

import { get } from "./api.js";

const SILENT_MS = 22_000; // a beat comes every 15 s
const LOOK_MS = 1_000;
const OPENING_MS = 22_000; // a stream that was asked for and says nothing: its line may have died in silence
const RETRY_MS_MAX = 15_000;
const PARKED_MS = 60_000; // a page that nobody sees gives its connection back: browsers have six for each service

/** What the service tells: "change" after news, "fresh" when it begins or stops to be live. */
export class Live extends EventTarget {
  #source = null;
  #openedAt = 0;
  #retry = 0;
  #timer = 0;
  #hiddenSince = null;
  #parked = false;

  constructor() {
    super();
    this.sessions = new Map();
    this.alarms = [];
    this.fresh = false;
    this.heard = null;
    this.known = false;
    this.#open();
    setInterval(() => this.#look(), LOOK_MS);
    for (const event of ["online", "pageshow"]) addEventListener(event, () => this.again());
    document.addEventListener("visibilitychange", () => this.#seen());
    document.addEventListener("resume", () => this.again());
  }

  /** Ask for a new stream at once if the present one is not live. */
  again() {
    if (!this.fresh) this.#open();
  }

  /** Note what an answer of the API said about a session, which is as new as the stream. */
  note(session) {
    this.#keep(session);
    this.#tell("change");
  }

  #open() {
    this.#openedAt = performance.now();
    clearTimeout(this.#timer);
    this.#source?.close();
    const source = new EventSource("/api/v1/events/stream");
    this.#source = source;
    source.addEventListener("snapshot", (event) => {
      const told = JSON.parse(event.data);
      const listed = new Set(told.sessions.map((session) => session.id));
      for (const id of this.sessions.keys()) if (!listed.has(id)) this.sessions.delete(id);
      for (const session of told.sessions) this.#keep(session);
      this.alarms = told.alarms;
      this.known = true;
      this.#retry = 0;
      this.#alive();
      this.#tell("snapshot");
      this.#tell("change");
    });
    source.addEventListener("session", (event) => {
      this.#keep(JSON.parse(event.data));
      this.#alive();
      this.#tell("change");
    });
    source.addEventListener("alarm", (event) => {
      this.alarms = JSON.parse(event.data).alarms;
      this.#alive();
      this.#tell("change");
    });
    source.addEventListener("beat", () => this.#alive());
    source.addEventListener("error", () => {
      if (source !== this.#source) return;
      source.close();
      this.#stale();
      get("/me").catch(() => {}); // no longer signed in: it leads to the sign-in page
      this.#timer = setTimeout(
        () => this.#open(),
        Math.random() * Math.min(RETRY_MS_MAX, 1000 * 2 ** this.#retry++),
      );
    });
  }

  #keep(session) {
    const known = this.sessions.get(session.id);
    if (known && known.generation > session.generation) return;
    session.toldAt = performance.now();
    this.sessions.set(session.id, session);
  }

  #alive() {
    this.heard = Date.now();
    this.heardAt = performance.now();
    if (this.fresh) return;
    this.fresh = true;
    this.#tell("fresh");
  }

  #stale() {
    if (!this.fresh) return;
    this.fresh = false;
    this.#tell("fresh");
  }

  #seen() {
    this.#hiddenSince = document.hidden ? performance.now() : null;
    if (document.hidden) return;
    if (this.#parked) this.#stale();
    this.#parked = false;
    this.again();
  }

  #look() {
    if (this.#hiddenSince !== null && performance.now() - this.#hiddenSince > PARKED_MS) {
      this.#parked = true;
      clearTimeout(this.#timer);
      this.#source?.close();
      return;
    }
    if (this.fresh && performance.now() - this.heardAt > SILENT_MS) {
      this.#stale();
      this.#open();
    } else if (!this.fresh && performance.now() - this.#openedAt > OPENING_MS) {
      this.#open(); // no browser gives up a connection that hangs in less than minutes
    }
  }

  #tell(kind) {
    this.dispatchEvent(new Event(kind));
  }
}
