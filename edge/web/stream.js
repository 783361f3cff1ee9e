// One room's stream over a WebSocket: it connects, keeps its place on both lanes, and comes back where it was.
// It owns the socket and the position. It never touches the page.

const BACKOFF_MS = [500, 30_000];
const SILENCE_MS = 45_000; // after which a ping asks whether anybody is there
const ANSWER_MS = 15_000;
const OVERLOADED_MS = 2_000;

/** Full jitter: anything between nothing and the whole pause, so that a crowd does not come back as one. */
export function backoff(attempt, random = Math.random) {
  return random() * Math.min(BACKOFF_MS[1], BACKOFF_MS[0] * 2 ** attempt);
}

export class Stream {
  /** `on` has the calls: state(name, detail), message(object), open(). */
  constructor(url, on) {
    this.url = url;
    this.on = on;
    this.place = null; // {i, m, c} of the last message seen
    this.attempt = 0;
    this.socket = null;
    this.ticket = null;
    this.timer = 0;
    this.watch = 0;
    addEventListener("online", () => this.socket || this.connect());
    document.addEventListener("visibilitychange", () => this.sayVisible());
  }

  get since() {
    return this.place && `i${this.place.i}.m${this.place.m}.c${this.place.c}`;
  }

  connect() {
    clearTimeout(this.timer);
    this.on.state("connecting");
    const url = new URL(this.url);
    if (this.place) url.searchParams.set("since", this.since);
    if (this.ticket) url.searchParams.set("ticket", this.ticket);
    this.ticket = null;
    const socket = (this.socket = new WebSocket(url, ["edge.v1.json"]));
    socket.onmessage = (event) => socket === this.socket && this.received(event.data);
    socket.onclose = (event) => socket === this.socket && this.closed(event.code);
    this.heard();
  }

  /** False if there is no connection to send on. */
  send(op) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(op));
    return true;
  }

  sayVisible() {
    this.send({ op: "visible", on: !document.hidden });
  }

  heard() {
    clearTimeout(this.watch);
    this.watch = setTimeout(() => {
      if (!this.send({ op: "ping" })) return this.drop();
      this.watch = setTimeout(() => this.drop(), ANSWER_MS);
    }, SILENCE_MS);
  }

  /** Gives up on this socket without waiting for the other side to agree. */
  drop() {
    const { socket } = this;
    if (socket) this.closed(1006);
    socket?.close();
  }

  received(data) {
    this.heard();
    const message = JSON.parse(data);
    if (message.t === "hello") this.hello(message);
    else if (message.t === "reconnect") this.moved(message);
    else if (this.moves(message)) this.on.message(message);
  }

  hello(message) {
    const [, i, m, c] = /^i(\d+)\.m(\d+)\.c(\d+)$/.exec(message.since).map(Number);
    // A replay may begin before what has been seen here: while the numbering is the same, that is a repeat.
    const same = this.place?.i === i;
    this.place = same ? { i, m: Math.max(m, this.place.m), c: Math.max(c, this.place.c) } : { i, m, c };
    this.attempt = 0;
    this.on.state("live");
    if (document.hidden) this.sayVisible();
    this.on.message(message);
    this.on.open();
  }

  /** Takes the message's place on its lane; false for one that has been seen. */
  moves(message) {
    const id = message.t === "gap" ? message.to : message.id;
    const lane = id?.[0];
    if (message.t === "ack" || (lane !== "m" && lane !== "c") || !this.place) return true;
    const number = Number(id.slice(1));
    if (!(number > this.place[lane])) return false;
    this.place[lane] = number;
    return true;
  }

  moved({ in_ms: wait = 0, ticket }) {
    this.ticket = ticket ?? null;
    const { socket } = this;
    this.again(wait);
    socket?.close();
  }

  closed(code) {
    if (code === 1008) {
      this.stop();
      this.on.state("refused", "the server refused this viewer");
      return;
    }
    this.again(backoff(this.attempt++) + (code === 1013 ? OVERLOADED_MS : 0));
  }

  again(wait) {
    this.stop();
    this.on.state("waiting", wait);
    this.timer = setTimeout(() => this.connect(), wait);
  }

  stop() {
    clearTimeout(this.timer);
    clearTimeout(this.watch);
    this.socket = null;
  }
}
