/** Pairs with somebody: shows a code, or takes the other one's. */
import {
  type Client,
  ConnectError,
  LinkError,
  type LinkFault,
  PairError,
  type PairErrorCode,
  type PairedContact,
  ProfileError,
} from "@chappe/client";
import { type Signal, signal } from "@preact/signals-core";

export type PairFault = PairErrorCode | LinkFault | "not-connected" | "full";

/** What the other person needs. */
export interface Shown {
  /** Whether it is for a link: its secret is longer than one that is read out. */
  readonly isForLink: boolean;
  /** To read out. */
  readonly code: string;
  /** To send: a link, or the text of the QR code where the page has no https address. */
  readonly link: string | undefined;
  readonly qrText: string | undefined;
  /** `Date.now()` of its end. */
  readonly expiresAt: number;
}

export class Pairing {
  /** A link that the page was opened with. */
  readonly offered: Signal<string | undefined> = signal(undefined);
  readonly shown: Signal<Shown | undefined> = signal(undefined);
  readonly isBusy: Signal<boolean> = signal(false);
  readonly fault: Signal<PairFault | undefined> = signal(undefined);
  readonly #client: Client;
  readonly #onPaired: (paired: PairedContact) => void;
  #abort = new AbortController();

  constructor(client: Client, onPaired: (paired: PairedContact) => void) {
    this.#client = client;
    this.#onPaired = onPaired;
  }

  /** Shows a new code until it is used, has expired, or {@link cancel} is called. */
  async show(isForLink: boolean): Promise<void> {
    this.cancel();
    const { signal } = this.#abort;
    await this.#run(signal, async () => {
      await this.#client.connect();
      const { code, link, qrText, expiresAt, paired } = await this.#client.showCode({ isForLink, signal });
      if (signal.aborted) return;
      this.shown.value = { isForLink, code, link: link ?? qrText, qrText, expiresAt: expiresAt * 1_000 };
      this.isBusy.value = false;
      const contact = await paired;
      if (!signal.aborted) this.#paired(contact);
    });
  }

  /** Pairs by what the other person shows: a code, a link, or the text of a QR code. */
  async enter(text: string): Promise<void> {
    this.cancel();
    const { signal } = this.#abort;
    await this.#run(signal, async () => {
      // The page may have been opened with a link a moment ago.
      await this.#client.connect();
      const paired = await this.#client.pair(text, signal);
      if (!signal.aborted) this.#paired(paired);
    });
  }

  /** Ends what is going on. A code that was shown is void. */
  cancel(): void {
    this.#abort.abort();
    this.#abort = new AbortController();
    this.offered.value = undefined;
    this.shown.value = undefined;
    this.isBusy.value = false;
    this.fault.value = undefined;
  }

  #paired(paired: PairedContact): void {
    this.cancel();
    this.#onPaired(paired);
  }

  async #run(signal: AbortSignal, action: () => Promise<void>): Promise<void> {
    this.isBusy.value = true;
    try {
      await action();
    } catch (error) {
      if (signal.aborted) return;
      this.shown.value = undefined;
      this.fault.value = faultOf(error);
    } finally {
      if (!signal.aborted) this.isBusy.value = false;
    }
  }
}

function faultOf(error: unknown): PairFault {
  if (error instanceof PairError) return error.code;
  if (error instanceof LinkError) return error.fault;
  if (error instanceof ProfileError && error.code === "full") return "full";
  if (error instanceof ConnectError || error instanceof ProfileError) return "not-connected";
  throw error;
}
