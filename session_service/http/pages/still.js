// The picture of one's own desktop on its card, small and with its age. It is asked of the service while somebody is at
// this page, and kept in a variable for a minute: who left the page alone shows nobody what was on the desktop. Nothing
// of it is ever put into the browser's storage, and the service says that no cache may keep it.

import { get } from "./api.js";

const KEPT_MS = 60_000;
const PAUSE_MS = 11_000; // the service takes no newer one sooner
const SEEN = ["held", "active"];
const SIGNS = ["pointermove", "pointerdown", "keydown", "focus"];

export class Still {
  #picture = null; // { of, state, src, at } of the session in `of`
  #wanted = !document.hidden; // somebody came, or came back
  #asking = false;
  #askedAt = -PAUSE_MS;

  constructor(changed) {
    this.changed = changed;
    for (const sign of SIGNS) addEventListener(sign, () => this.#sign(), { passive: true });
    document.addEventListener("visibilitychange", () => !document.hidden && this.#sign());
    // A page that is kept for the Back button would show it to whoever goes back after a sign-out.
    addEventListener("pagehide", () => this.#forget());
    addEventListener("pageshow", (event) => event.persisted && this.#sign());
  }

  /** Return `{ src, at }` of this session's picture, or null; asks for one where one is due. */
  of(session, { fresh }) {
    const may = session !== null && SEEN.includes(session.state);
    const known = this.#picture;
    if (known && (!may || known.of !== session.id || performance.now() - known.shownAt > KEPT_MS)) this.#forget();
    if (!may) return null;
    if (this.#picture && this.#picture.state !== session.state) this.#wanted = true; // it went on, or was left
    if (fresh && this.#wanted && !document.hidden) this.#ask(session);
    return this.#picture;
  }

  #sign() {
    if (this.#picture) return;
    this.#wanted = true;
    this.changed();
  }

  #forget() {
    this.#picture = null;
  }

  async #ask(session) {
    if (this.#asking || performance.now() - this.#askedAt < PAUSE_MS) return;
    this.#asking = true;
    this.#askedAt = performance.now();
    try {
      const told = await get(`/sessions/${session.id}/picture`);
      this.#wanted = false;
      const src = `data:${told.media_type};base64,${told.data}`;
      this.#picture = { of: session.id, state: session.state, src, at: told.taken_at, shownAt: performance.now() };
    } catch {
      /* then there is none: the card says all that matters without it */
    } finally {
      this.#asking = false;
    }
    this.changed();
  }
}
