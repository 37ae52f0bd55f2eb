/** The candidates of a call: those of the other side that come before their description, and the own ones to send. */

/** The other side's candidates, by the rounds of their descriptions. */
export class RemoteCandidates {
  #waiting: { readonly round: number; readonly candidate: string }[] = [];
  /** The round of the description that is applied. */
  #round = -1;

  /** Takes candidates. {@link addTo} adds them once their description is applied. */
  take(candidates: readonly string[], round: number): void {
    this.#waiting.push(...candidates.map((candidate) => ({ round, candidate })));
  }

  /** The description of this round is applied: adds its candidates, keeps later ones, and drops earlier ones. */
  async applied(round: number, peer: RTCPeerConnection): Promise<void> {
    this.#round = round;
    await this.addTo(peer);
  }

  /** Adds those whose description is applied. */
  async addTo(peer: RTCPeerConnection): Promise<void> {
    const due = this.#waiting.filter(({ round }) => round === this.#round);
    this.#waiting = this.#waiting.filter(({ round }) => round > this.#round);
    for (const { candidate } of due) {
      // A candidate that this browser cannot read is no reason to end a call: another may work.
      await peer.addIceCandidate({ candidate, sdpMLineIndex: 0 }).catch(() => undefined);
    }
  }
}

/** This side's candidates. Those of one turn of the event loop go in one message. */
export class LocalCandidates {
  readonly #send: (candidates: readonly string[]) => boolean;
  #waiting: string[] = [];

  /** `send` returns whether they were taken; if not, they go with the next ones. */
  constructor(send: (candidates: readonly string[]) => boolean) {
    this.#send = send;
  }

  push(candidate: string): void {
    this.#waiting.push(candidate);
    queueMicrotask(() => this.flush());
  }

  flush(): void {
    if (this.#waiting.length > 0 && this.#send(this.#waiting)) this.#waiting = [];
  }

  /** Drops what was not sent: it belongs to a description that is void. */
  clear(): void {
    this.#waiting = [];
  }
}
