/** A ticket as `POST /api/v1/sessions/{id}/tickets` answers it. Good for one use. */
export interface Ticket {
  ticket: string;
  /** `/s/<shard>/ws` */
  path: string;
}

/** One stream as a socket for noVNC: `new RFB(element, port)`. It stays open while links come and go. */
export interface Port {
  binaryType: "arraybuffer";
  protocol: string;
  readyState: "open" | "closed";
  onopen: (() => void) | null;
  onmessage: ((event: { data: ArrayBuffer }) => void) | null;
  onerror: (() => void) | null;
  onclose: ((event: { code: number; reason: string; wasClean: boolean }) => void) | null;
  send(data: ArrayBuffer | ArrayBufferView): void;
  close(): void;
}

/** What the service said with a refusal; unknown keys may stand beside these. */
export interface Refusal {
  code?: number;
  why?: string;
  next?: Step;
  retry?: number | null;
  by?: string | null;
  saved_as_of?: string | null;
  outcome?: string | null;
}

/** What leads on after an end: docs/design/0002-wire.md has the table. */
export type Step =
  | "resume"
  | "open"
  | "click"
  | "login"
  | "start"
  | "wait"
  | "report"
  | "consent"
  | "none";

/** What a channel tells, by kind. */
export interface Told {
  /** A try begins. `failures`: sockets in a row that did not open. */
  dialling: { tries: number; failures: number };
  /** The desktop is not ready yet. */
  wait: { why: string; percent: number | null };
  /**
   * A stream begins: the first, or after a resync another one, with a viewer of its own. `lostInput`: the last
   * keystrokes may be missing.
   */
  stream: { port: Port; resync: boolean; lostInput: boolean; mode: string; gapS: number | null };
  /** The same stream goes on: nothing is missing and nothing is doubled. */
  replayed: { gapS: number | null };
  /** The link is gone and the stream is not; it is tried again by itself. Take no input until `replayed`. */
  lost: { retryInMs: number; why: string; wasOpen: boolean; failures: number };
  /** The desktop takes no more for now; take no input until `roomy`. */
  full: Record<string, never>;
  roomy: Record<string, never>;
  /** An answer to `measure()`. */
  latency: { ms: number };
  /** A pause of the service, for people, in UTC milliseconds. `back` null: none any more. */
  planned: { begin: number | null; back: number | null; note: string };
  /**
   * Nothing more happens by itself. `login`: sign in, then `again({ ticket })` where `hasKey`; `open` or `click`: `open()`
   * with a new ticket, for `click` only when somebody asked for it.
   */
  ended: { code: number; why: string; step: Step; refusal: Refusal };
}

export type Tell = <Kind extends keyof Told>(kind: Kind, facts: Told[Kind]) => void;

export interface ChannelOptions {
  /** Where sockets are opened: `wss://desk.example:443`, no path. */
  dial: string;
  /** The service's public address, the port always there; what is signed. Nearly always the same as `dial`. */
  aud: string;
  /** Hears everything, in order. Must not throw. */
  tell: Tell;
}

/** A stream to a desktop that survives its links. Its key lives in this page's memory and ends with it. */
export declare class Channel {
  constructor(options: ChannelOptions);
  readonly phase: "idle" | "waiting" | "dialling" | "open" | "down";
  readonly hasKey: boolean;
  /** True while bytes of the user are taken: attached, and there is room. */
  readonly takesInput: boolean;
  readonly bufferedAmount: number;
  /** The last measured way to the service and back. */
  readonly latencyMs: number | null;
  /** `performance.now()` of the last byte that came. */
  readonly heardAt: number;
  /** `performance.now()` of a question of `measure()` without an answer. */
  readonly askedSince: number | null;
  /** Begin, or begin anew. */
  open(ticket: Ticket): void;
  /** After a login: the same stream goes on. False where only `open` is left. */
  again(ticket: Pick<Ticket, "ticket">): boolean;
  /** Dial at once what would be dialled, and ask what is open. Called by itself after sleep and for networks. */
  hurry(): void;
  /** Ask whether the other end is there; without an answer in 3 s the link is lost. */
  probe(): void;
  /** Ask how long an answer takes; decides nothing. */
  measure(): void;
  /** Somebody else knows that nobody answers. */
  giveUp(): void;
  /** Leave on purpose: the desktop is held, or ended and saved. */
  leave(options?: { end?: boolean }): void;
}
