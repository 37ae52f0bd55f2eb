/** Renews the credentials of a call's relays before they expire. */
import type { IceConfiguration } from "../core/client.js";
import type { Clock, Timers } from "../core/clock.js";

/** After which part of their life credentials are renewed. */
const RENEW_AT = 0.8;
/** The shortest pause: a node must not keep a call making new paths. In milliseconds. */
const SHORTEST_PAUSE = 60_000;

/** The renewal for one connection. */
export class Renewal {
  readonly #clock: Clock;
  readonly #timers: Timers;
  readonly #request: () => Promise<IceConfiguration>;
  readonly #use: (servers: RTCIceServer[]) => void;
  #cancel: (() => void) | undefined;
  #isStopped = false;

  /** Hands renewed servers to `use`, which throws if it cannot use them. */
  constructor(
    clock: Clock,
    timers: Timers,
    request: () => Promise<IceConfiguration>,
    use: (servers: RTCIceServer[]) => void,
  ) {
    this.#clock = clock;
    this.#timers = timers;
    this.#request = request;
    this.#use = use;
  }

  /** The servers in use have credentials for `ttl` seconds; 0 is for ever. */
  schedule(ttl: number): void {
    if (ttl <= 0 || this.#isStopped) return;
    const pause = Math.max(ttl * 1000 * RENEW_AT, SHORTEST_PAUSE);
    this.#cancel = this.#timers.at(this.#clock.now() + pause, () => void this.#renew());
  }

  stop(): void {
    this.#isStopped = true;
    this.#cancel?.();
  }

  async #renew(): Promise<void> {
    try {
      const { iceServers, ttl } = await this.#request();
      if (ttl <= 0 || iceServers.length === 0) throw new Error();
      if (this.#isStopped) return;
      this.#use(iceServers);
      this.schedule(ttl);
    } catch {
      // No node answers, or it names no relay or no lifetime. The call keeps what it has meanwhile.
      this.schedule(SHORTEST_PAUSE / 1000);
    }
  }
}
