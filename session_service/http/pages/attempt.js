// One attempt to reach the service: up to three sockets, of which the first that opens carries it. A second one is
// there because a lost SYN is repeated ever more seldom: after a silent minute a fresh socket is through at once.
//
// Not the protocol: nothing is sent here, and what comes on a socket that does not carry counts for nothing.

const KNOCK_MS = 4_000; // a socket that is not open by then gets a rival
const KNOCKS_MAX = 3;

export class Attempt {
  #knocking = [];
  #knocks = 0;
  #to;
  #tell;
  socket = null; // the one that carries
  dueAt = null; // performance.now() of the next rival
  isOver = false;

  /** `tell` has opened(), message(data) and closed(code). Throws what WebSocket throws. */
  constructor(url, protocol, tell) {
    this.#to = [url, protocol];
    this.#tell = tell;
    this.knock();
  }

  /** Try one more socket; the others go on trying. */
  knock() {
    this.#knocks += 1;
    this.dueAt = this.#knocks < KNOCKS_MAX ? performance.now() + KNOCK_MS : null;
    const socket = new WebSocket(...this.#to);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.#carries(socket);
    socket.onmessage = (event) => {
      if (this.#carries(socket)) this.#tell.message(event.data);
    };
    socket.onclose = (event) => {
      this.#knocking = this.#knocking.filter((other) => other !== socket);
      if (socket === this.socket || (!this.socket && !this.#knocking.length)) this.#tell.closed(event.code);
    };
    this.#knocking.push(socket);
  }

  get isOpen() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  send(data) {
    if (this.isOpen) this.socket.send(data);
  }

  /** Leave all sockets; what they still say is not heard. */
  leave(code) {
    this.isOver = true;
    this.dueAt = null;
    leave(this.socket ? [this.socket, ...this.#knocking] : this.#knocking, code);
    this.#knocking = [];
  }

  #carries(socket) {
    if (!this.socket && !this.isOver) {
      this.socket = socket;
      this.dueAt = null;
      leave(this.#knocking.filter((other) => other !== socket));
      this.#knocking = [];
      this.#tell.opened();
    }
    return socket === this.socket && !this.isOver;
  }
}

function leave(sockets, code) {
  for (const socket of sockets) {
    socket.onmessage = socket.onopen = socket.onclose = null;
    if (socket.readyState < WebSocket.CLOSING) socket.close(code);
  }
}
