export declare const SUBPROTOCOL: "continuity.v1";
/** Names no stream: an attempt with it is answered by a resync. */
export declare const NO_LEG: "AAAAAAAAAAA";

/** Base64url without padding. */
export declare function encode(bytes: Uint8Array): string;
export declare function decode(text: string): Uint8Array;

export interface AttemptFields {
  aud: string;
  sid: string;
  grant: number;
  leg: string;
  n: number;
  rx: number;
  have: number;
  end: number;
  challenge: string;
}

/** What a resume signs. */
export declare function attemptText(fields: AttemptFields): string;
/** A key that signs and cannot be exported. */
export declare function importKey(bytes: Uint8Array): Promise<CryptoKey>;
/** The MAC of an attempt, as base64url. */
export declare function sign(key: CryptoKey, text: string): Promise<string>;
/** CRC-32 as zlib has it; `before` goes on with an earlier one. */
export declare function crc32(bytes: Uint8Array, before?: number): number;

/** What was sent and is not acknowledged, by offsets of the stream. */
export declare class Ring {
  readonly base: number;
  readonly end: number;
  readonly size: number;
  append(bytes: Uint8Array): void;
  holds(offset: number): boolean;
  /** Trim; false where the offset cannot be true. */
  acknowledge(offset: number): boolean;
  /** The CRC-32 of the stream's first `offset` bytes. */
  checksum(offset: number): number;
  chunks(): Uint8Array[];
}
