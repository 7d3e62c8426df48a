// What `continuity.v1` signs, counts and keeps, for channel.js: the proof of a resume, CRC-32, and the ring of what was
// sent. Not a protocol's state. Held to tests/vectors/wire-v1-vectors.json, as the server is.

export const SUBPROTOCOL = `continuity.v1`;
export const NO_LEG = "AAAAAAAAAAA"; // names no stream: the answer is a resync

// ---------- the proof ----------

/** Return base64url without padding. */
export function encode(bytes) {
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** Return the bytes of base64url without padding. */
export function decode(text) {
  const plain = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return Uint8Array.from(plain, (letter) => letter.charCodeAt(0));
}

/** Return what is signed; no field can hold a newline. */
export function attemptText({ aud, sid, grant, leg, n, rx, have, end, challenge }) {
  return [SUBPROTOCOL, "resume", aud, sid, grant, leg, n, rx, have, end, challenge].join("\n");
}

/** Return a key of this page's memory that cannot be exported. */
export function importKey(bytes) {
  return crypto.subtle.importKey("raw", bytes, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
}

/** Return the MAC of an attempt, as text. */
export async function sign(key, text) {
  return encode(new Uint8Array(await crypto.subtle.sign("HMAC", key, new TextEncoder().encode(text))));
}

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

/** Go on with the CRC-32 of zlib. */
export function crc32(bytes, before = 0) {
  let crc = ~before;
  for (const byte of bytes) crc = (crc >>> 8) ^ TABLE[(crc ^ byte) & 255];
  return ~crc >>> 0;
}

/** What was sent and is not acknowledged, and the checksum of everything before. */
export class Ring {
  #chunks = [];
  #crc = 0;
  base = 0;
  end = 0;

  get size() {
    return this.end - this.base;
  }

  append(bytes) {
    this.#chunks.push(bytes);
    this.end += bytes.length;
  }

  holds(offset) {
    return offset >= this.base && offset <= this.end;
  }

  /** Trim; false when it cannot be true. */
  acknowledge(offset) {
    if (!this.holds(offset)) return false;
    let left = offset - this.base;
    while (left > 0) {
      const first = this.#chunks[0];
      const gone = first.subarray(0, left);
      this.#crc = crc32(gone, this.#crc);
      left -= gone.length;
      if (gone.length === first.length) this.#chunks.shift();
      else this.#chunks[0] = first.subarray(gone.length);
    }
    this.base = offset;
    return true;
  }

  /** The checksum of the stream's first `offset` bytes. */
  checksum(offset) {
    let crc = this.#crc;
    let left = offset - this.base;
    for (const chunk of this.#chunks) {
      if (left <= 0) break;
      crc = crc32(chunk.subarray(0, left), crc);
      left -= chunk.length;
    }
    return crc;
  }

  /** Everything that is kept, oldest first. */
  chunks() {
    return [...this.#chunks];
  }
}
