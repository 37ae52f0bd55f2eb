/** A connection to a node that has proved its key. No other connection leaves this module. */
import { type Bytes, fromBase64, fromBase64url, randomBytes, toBase64url } from "./bytes.js";
import type { Clock, Timers } from "./clock.js";
import { type Json, parseObject } from "./messages.js";
import { isMixedContent } from "./special.js";
import { isLabel, verifyNodeProof } from "./statements.js";

/** The protocol's number. */
const PROTOCOL = 1;
/** How long a dial may take, in milliseconds: a slow mobile connection takes four round trips of half a second. */
export const DIAL_TIMEOUT = 3_000;
/** The longest message of a node in characters. */
const MAX_MESSAGE = 64 * 1024;
/** The most messages that wait to be handled. A correct node sends a few at a time. */
const MAX_WAITING = 256;

/** Why a dial failed. */
export type DialFault =
  | "timeout"
  | "unreachable"
  | "mixed-content"
  | "not-a-node"
  | "other-version"
  | "other-node"
  | "other-url"
  | "bad-proof"
  | "leaving"
  | "aborted";

/** A dial failed. Another candidate can be tried at once. */
export class DialError extends Error {
  override readonly name = "DialError";
  constructor(readonly fault: DialFault) {
    super(`the dial failed: ${fault}`);
  }
}

/** The part of `WebSocket` that the client uses. Node before version 22 has none: pass that of the package `ws`. */
export type WebSocketConstructor = new (url: string) => WebSocket;

/** What a dial needs of the platform. */
export interface DialContext {
  readonly webSocket: WebSocketConstructor;
  readonly clock: Clock;
  readonly timers: Timers;
}

/** An address to dial, and the key that the node there has to prove. */
export interface DialTarget {
  readonly url: string;
  /** `undefined` accepts any key, as on the first connection with SSH. */
  readonly node: Bytes | undefined;
}

/** A connection. Messages that arrive before {@link onText} is set are kept. */
export class Connection {
  /** The proven key. */
  readonly node: Bytes;
  readonly url: string;
  readonly region: string | undefined;
  /** The node's nonce of this session. */
  readonly nonce: Bytes;
  /** Resolves when the connection has ended. */
  readonly closed: Promise<void>;
  readonly #socket: WebSocket;
  #waiting: string[] = [];
  #isRunning = false;
  #onText: ((text: string) => Promise<void>) | undefined;

  /** @internal */
  constructor(
    socket: WebSocket,
    info: { node: Bytes; url: string; region: string | undefined; nonce: Bytes },
    waiting: readonly string[],
  ) {
    this.#socket = socket;
    this.#waiting = [...waiting];
    this.node = info.node;
    this.url = info.url;
    this.region = info.region;
    this.nonce = info.nonce;
    this.closed = new Promise((resolve) => {
      if (socket.readyState > WEBSOCKET_OPEN) resolve();
      socket.addEventListener("close", () => resolve());
    });
    // In Node.js, an error that nobody listens for ends the process. The socket closes after it.
    socket.addEventListener("error", () => {});
    socket.addEventListener("message", (event) => this.#receive(event.data));
  }

  /** The text form of the proven key. */
  get nodeId(): string {
    return toBase64url(this.node);
  }

  /** Whether messages can be sent. */
  get isOpen(): boolean {
    return this.#socket.readyState === WEBSOCKET_OPEN;
  }

  /** Handles the texts of the node one after another: the next only when the promise of the last has resolved. */
  onText(handle: (text: string) => Promise<void>): void {
    this.#onText = handle;
    void this.#run();
  }

  /** Sends a message. On a connection that has ended it does nothing; {@link closed} tells. */
  send(message: Json): void {
    if (this.isOpen) this.#socket.send(JSON.stringify(message));
  }

  /** Ends the connection. */
  close(): void {
    this.#socket.close();
  }

  #receive(data: unknown): void {
    if (typeof data !== "string" || data.length > MAX_MESSAGE || this.#waiting.length >= MAX_WAITING) {
      this.close();
      return;
    }
    this.#waiting.push(data);
    void this.#run();
  }

  async #run(): Promise<void> {
    if (this.#isRunning || this.#onText === undefined) return;
    this.#isRunning = true;
    for (let text = this.#waiting.shift(); text !== undefined; text = this.#waiting.shift()) {
      try {
        await this.#onText(text);
      } catch (error) {
        // A fault of this library. It costs one message, and not the session.
        console.error(error);
      }
    }
    this.#isRunning = false;
  }
}

const WEBSOCKET_OPEN = 1;

/**
 * Connects to a node and makes it prove its key. `onProgress` is called after each step.
 * Rejects with {@link DialError}; the socket is closed then.
 */
export async function dial(
  target: DialTarget,
  context: DialContext,
  signal: AbortSignal,
  onProgress: () => void = () => {},
): Promise<Connection> {
  if (isMixedContent(target.url)) throw new DialError("mixed-content");
  let socket: WebSocket;
  try {
    socket = new context.webSocket(target.url);
  } catch {
    throw new DialError("unreachable");
  }
  const handshake = new Handshake(socket, onProgress);
  const deadline = context.timers.at(context.clock.now() + DIAL_TIMEOUT, () =>
    handshake.fail(new DialError("timeout")),
  );
  const abort = () => handshake.fail(new DialError("aborted"));
  signal.addEventListener("abort", abort);
  if (signal.aborted) abort();
  try {
    return await handshake.run(target);
  } catch (error) {
    socket.close();
    throw error;
  } finally {
    deadline();
    signal.removeEventListener("abort", abort);
  }
}

/** The steps from an opened socket to a proven key. */
class Handshake {
  readonly #socket: WebSocket;
  readonly #onProgress: () => void;
  readonly #texts: string[] = [];
  #next: { resolve(text: string): void; reject(error: DialError): void } | undefined;
  #failure: DialError | undefined;
  #isOpened = false;
  readonly #listeners: [string, (event: Event) => void][];

  constructor(socket: WebSocket, onProgress: () => void) {
    this.#socket = socket;
    this.#onProgress = onProgress;
    this.#listeners = [
      ["open", () => this.#opened()],
      ["message", (event) => this.#received((event as MessageEvent).data)],
      ["error", () => this.fail(new DialError("unreachable"))],
      ["close", () => this.fail(new DialError(this.#isOpened ? "not-a-node" : "unreachable"))],
    ];
    for (const [type, listener] of this.#listeners) socket.addEventListener(type, listener);
  }

  fail(error: DialError): void {
    this.#failure ??= error;
    this.#next?.reject(this.#failure);
  }

  async run(target: DialTarget): Promise<Connection> {
    const info = readServerInfo(await this.#text());
    if (target.node !== undefined && toBase64url(target.node) !== toBase64url(info.node)) {
      throw new DialError("other-node");
    }
    // URLs can be spelled in several ways. The node signs only for its own spelling.
    const url = isSameUrl(target.url, info.endpoint) ? info.endpoint : target.url;
    const challenge = randomBytes(32);
    this.#socket.send(JSON.stringify({ type: "prove", id: "prove", challenge: toBase64url(challenge), url }));
    const signature = await this.#proof();
    if (!(await verifyNodeProof(info.node, challenge, info.nonce, url, signature))) throw new DialError("bad-proof");
    const proved = { node: info.node, url: target.url, region: info.region, nonce: info.nonce };
    const connection = new Connection(this.#socket, proved, this.#texts);
    for (const [type, listener] of this.#listeners) this.#socket.removeEventListener(type, listener);
    return connection;
  }

  async #proof(): Promise<Bytes> {
    /** How many other messages are skipped. A correct node sends none. */
    const MAX_STRAY = 8;
    for (let stray = 0; stray < MAX_STRAY; stray++) {
      const reply = parseObject(await this.#text());
      if (reply?.type === "going_away") throw new DialError("leaving");
      if (reply?.id !== "prove") continue;
      const signature = reply.type === "proof" ? fromBase64url(reply.signature, 64) : undefined;
      if (signature !== undefined) return signature;
      throw new DialError(reply.code === "bad_message" ? "other-url" : "bad-proof");
    }
    throw new DialError("not-a-node");
  }

  #opened(): void {
    this.#isOpened = true;
    this.#onProgress();
  }

  #received(data: unknown): void {
    if (typeof data !== "string" || data.length > MAX_MESSAGE) {
      this.fail(new DialError("not-a-node"));
      return;
    }
    this.#onProgress();
    if (this.#next === undefined) this.#texts.push(data);
    else this.#next.resolve(data);
    this.#next = undefined;
  }

  #text(): Promise<string> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const text = this.#texts.shift();
    if (text !== undefined) return Promise.resolve(text);
    return new Promise((resolve, reject) => {
      this.#next = { resolve, reject };
    });
  }
}

function readServerInfo(text: string): { node: Bytes; nonce: Bytes; endpoint: string; region: string | undefined } {
  const info = parseObject(text);
  if (info?.type !== "server_info") throw new DialError("not-a-node");
  if (info.protocol !== PROTOCOL) throw new DialError("other-version");
  const id = typeof info.serverId === "string" ? /^ed25519:(.*)$/.exec(info.serverId)?.[1] : undefined;
  const node = fromBase64(id, 32);
  const nonce = fromBase64(info.nonce, 32);
  if (node === undefined || nonce === undefined || typeof info.endpoint !== "string") throw new DialError("not-a-node");
  const region =
    typeof info.region === "string" && info.region !== "" && isLabel(info.region) ? info.region : undefined;
  return { node, nonce, endpoint: info.endpoint, region };
}

/** Whether two URLs are equivalent: scheme and host ignore case, and a path of `/` equals an empty one. */
export function isSameUrl(a: string, b: string): boolean {
  const normal = (url: string) => {
    const match = /^([a-z]+:\/\/[^/]*)(.*)$/i.exec(url);
    return match && `${(match[1] as string).toLowerCase()}${match[2] === "/" ? "" : match[2]}`;
  };
  return normal(a) !== null && normal(a) === normal(b);
}
