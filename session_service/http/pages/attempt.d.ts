/** What an attempt tells of itself. */
export interface AttemptTell {
  /** A socket opened and carries the attempt. */
  opened(): void;
  message(data: string | ArrayBuffer): void;
  /** The socket that carried has closed, or no socket opened. */
  closed(code: number): void;
}

/** Up to three sockets, of which the first that opens carries the attempt. Of use to those who write a channel. */
export declare class Attempt {
  constructor(url: string, protocol: string, tell: AttemptTell);
  readonly socket: WebSocket | null;
  /** `performance.now()` at which the owner is to call `knock()`. */
  readonly dueAt: number | null;
  readonly isOver: boolean;
  readonly isOpen: boolean;
  knock(): void;
  send(data: string | Uint8Array): void;
  leave(code?: number): void;
}
