/** The client of a page: signalling, media, pairing, and a profile in the browser's database. */
import { type ConnectError, type IceConfiguration, SignallingClient, type SignallingEvents } from "../core/client.js";
import { SystemClock, Timers } from "../core/clock.js";
import { type Contact, type ContactId, isConfirmed } from "../core/contact.js";
import { TypedEventTarget } from "../core/events.js";
import type { ActiveCall } from "../core/profile.js";
import { Discovery, type DiscoveryOptions } from "../discovery/discovery.js";
import { Call } from "../media/call.js";
import type { CallParts, MediaOptions } from "../media/call-events.js";
import type { QualityThresholds } from "../media/quality.js";
import type { Paired, PairingParts } from "../pairing/pair.js";
import { Database } from "./database.js";

/** How often a page records that it is in a call, and how old that may be to come back into it. In milliseconds. */
const RECORD_CALL_EVERY = 10_000;
const REJOIN_WITHIN = 40_000;

/** The options of a {@link Client}. */
export interface ClientOptions extends Omit<DiscoveryOptions, "cache"> {
  /** The name that new contacts see. Used when the profile is created. */
  readonly name?: string;
  /** Tells the profiles of one site apart: the name of the database. */
  readonly profile?: string;
  /** Whether the profile can be exported later. Used when it is created: scripts of the page can read its keys then. */
  readonly isExportable?: boolean;
  /** Ids of nodes to which any other is preferred at first. */
  readonly avoid?: readonly string[];
  /** Where a call's quality is good and fair, in place of `QUALITY_THRESHOLDS`. */
  readonly quality?: QualityThresholds;
}

/** The events of a {@link Client}, with their `detail`. */
export interface ClientEvents extends Omit<SignallingEvents, "incomingcall"> {
  /** A contact calls. */
  incomingcall: { readonly call: Call; readonly contact: ContactInfo };
}

/** A contact, as an app sees it: without the keys. */
export interface ContactInfo {
  readonly id: ContactId;
  /** Chosen by the contact at first, and cleaned. Two contacts never look the same. */
  readonly name: string;
  readonly isBlocked: boolean;
  /** Whether calls may use other paths than relays, so that the contact sees this device's address. Off at first. */
  readonly isDirectAllowed: boolean;
  /** Whether the contact is known to have stored the newest pairing. Otherwise its first call tells. */
  readonly isConfirmed: boolean;
}

/** The result of a pairing. */
export interface PairedContact {
  readonly contact: ContactInfo;
  /** Four words. If the other person sees others, somebody is in between: remove the contact. */
  readonly words: readonly string[];
}

function infoOf(contact: Contact): ContactInfo {
  const { id, name, isBlocked, isDirectAllowed = false } = contact;
  return { id, name, isBlocked, isDirectAllowed, isConfirmed: isConfirmed(contact) };
}

/** A code that this client shows. */
export interface ShownPairing {
  /** The code for the person to read out. */
  readonly code: string;
  /** A link with the code and a few nodes, if one fits. What follows its `#` reaches no server. */
  readonly link: string | undefined;
  /** The text of a QR code with the same. */
  readonly qrText: string | undefined;
  /** When the code expires, in seconds since 1970. */
  readonly expiresAt: number;
  /** Resolves when somebody has used the code. Rejects with `PairError`. */
  readonly paired: Promise<PairedContact>;
}

/** A client for a page. Constructing it does nothing. */
export class Client extends TypedEventTarget<ClientEvents> {
  readonly #database: Database;
  readonly #discovery: Discovery;
  readonly #signalling: SignallingClient;
  readonly #quality: QualityThresholds | undefined;
  readonly #calls = new Set<Call>();
  #closed = new AbortController();
  #contacts: { readonly of: readonly Contact[]; readonly infos: readonly ContactInfo[] } = { of: [], infos: [] };

  /** Throws `SyntaxError` if an option is not valid. */
  constructor(options: ClientOptions = {}) {
    super();
    this.#quality = options.quality;
    this.#database = new Database(options.profile ?? "chappe");
    const clock = new SystemClock();
    const timers = new Timers(clock);
    this.#discovery = new Discovery({ ...options, cache: this.#database.cache }, clock, timers);
    this.#signalling = new SignallingClient({
      store: this.#database.profile,
      finder: this.#discovery,
      name: options.name ?? "somebody",
      isExportable: options.isExportable ?? false,
      avoid: options.avoid ?? [],
      isPrivate: options.isPrivate ?? false,
      clock,
      timers,
    });
    this.#forwardEvents();
  }

  #forwardEvents(): void {
    const names = [
      "connected",
      "disconnected",
      "searchfailed",
      "notattached",
      "nodechecked",
      "reachable",
      "inboxrejected",
      "contactschanged",
    ] as const;
    for (const name of names) {
      this.#signalling.addEventListener(name, ({ detail }) => this.emit(name, detail as never));
    }
    this.#signalling.addEventListener("incomingcall", ({ detail: { call, contact, rejoins } }) => {
      const rejoined = rejoins && [...this.#calls].find((known) => known.contact === contact.id);
      if (rejoined) {
        rejoined.adopt(call).catch(reportError);
        return;
      }
      const ringing = this.#track(new Call(call, this.#callParts(contact)));
      this.emit("incomingcall", { call: ringing, contact: infoOf(contact) });
    });
  }

  /**
   * Connects, and resolves once contacts can call. Called again, it returns the same promise; after {@link close}, it
   * connects anew. Rejects with {@link ConnectError} if the first search finds no node; the client goes on searching.
   */
  connect(): Promise<void> {
    const { signal } = this.#closed;
    // Again, these change nothing.
    globalThis.addEventListener?.("online", this.#networkChanged, { signal });
    globalThis.document?.addEventListener("visibilitychange", this.#wake, { signal });
    return this.#signalling.connect();
  }

  readonly #wake = () => {
    if (globalThis.document?.visibilityState !== "hidden") this.#signalling.wake();
  };

  readonly #networkChanged = () => {
    this.#signalling.wake();
    for (const call of this.#calls) call.networkChanged();
  };

  /** Ends the active call and disconnects. Takes two seconds at most. */
  async close(): Promise<void> {
    this.#closed.abort();
    this.#closed = new AbortController();
    // A call that is ended here is not one to come back into.
    this.#record(undefined);
    await this.#signalling.close();
  }

  /** Deletes the profile, its keys, and the known nodes: no database is left. */
  async wipe(): Promise<void> {
    // The keys go at once. Taking leave of the node may take two seconds.
    const wiped = this.#database.wipe();
    await this.close();
    this.#discovery.forget();
    await wiped;
  }

  /** The id of the node in use, or `undefined`. */
  get node(): string | undefined {
    return this.#signalling.node;
  }

  /** The name that new contacts see. Empty before {@link connect}. */
  get name(): string {
    return this.#signalling.isRunning ? this.#signalling.profile.name : "";
  }

  /** Changes the name that new contacts see; those of before keep the one that they know. Rejects with {@link ConnectError}. */
  async setName(name: string): Promise<void> {
    await this.#signalling.profile.setName(name);
  }

  /** The contacts, in the order in which they were paired. The same array until one changes. Empty before {@link connect}. */
  get contacts(): readonly ContactInfo[] {
    const { contacts } = this.#signalling;
    if (contacts !== this.#contacts.of) this.#contacts = { of: contacts, infos: contacts.map(infoOf) };
    return this.#contacts.infos;
  }

  /** Calls a contact. Resolves once the call is placed, which is before the other side rings. */
  call(contact: ContactId, options: MediaOptions = {}): Promise<Call> {
    return this.#place(contact, options);
  }

  /**
   * Comes back into the call that this page was in before it was loaded again, or resolves with `undefined` if there was
   * none. The other side keeps the call for half a minute and does not ring. A call that used relays alone does so again,
   * whatever `options` say; another one does only if they say so. If this rejects, it can be tried again, also by the page
   * that is loaded next.
   */
  async rejoin(options: MediaOptions = {}): Promise<Call | undefined> {
    const { clock, profile } = this.#signalling;
    const active = profile.data.activeCall;
    if (active === undefined) return undefined;
    const isRecent = Math.abs(clock.unixMs() - active.at) < REJOIN_WITHIN;
    // What the person has decided for this call lasts. An app may only restrict it further.
    const isRelayOnly = options.isRelayOnly || active.isRelayOnly;
    if (isRecent) return this.#place(active.contact, { ...options, isRelayOnly }, active.call);
    // Nothing is kept of a call that is over.
    this.#record(undefined);
    return undefined;
  }

  async #place(contact: ContactId, options: MediaOptions, rejoins?: string): Promise<Call> {
    const place = (offer: string) => this.#signalling.call(contact, offer, rejoins);
    const parts = this.#callParts(this.#signalling.contacts.find(({ id }) => id === contact));
    return this.#track(await Call.place(place, parts, options, rejoins !== undefined));
  }

  /** Keeps a call while it lasts, and records it, so that the page can come back into it. */
  #track(call: Call): Call {
    const { clock, timers } = this.#signalling;
    this.#calls.add(call);
    let cancel = () => {};
    const record = () => {
      cancel();
      if (!this.#calls.has(call)) return;
      const { id, contact, isRelayOnly } = call;
      this.#record({ call: id, contact, isRelayOnly, at: clock.unixMs() });
      cancel = timers.at(clock.now() + RECORD_CALL_EVERY, record);
    };
    // Again each time: after the other side has come back, the call has another id. Before an answer, only the offer of a
    // call that comes back is recorded: the other side then knows the earlier call no more.
    call.addEventListener("step", ({ detail: { kind, message } }) => {
      if (message === "call_answer" || (call.isRejoin && kind === "delivered")) record();
    });
    call.addEventListener("ended", () => {
      this.#calls.delete(call);
      this.#record(undefined);
    });
    return call;
  }

  #record(activeCall: ActiveCall | undefined): void {
    // Without it, this page can only not come back into the call after a reload.
    if (this.#signalling.isRunning) this.#signalling.profile.setActiveCall(activeCall).catch(() => {});
  }

  #callParts(contact: Contact | undefined): CallParts {
    const { clock, timers } = this.#signalling;
    return {
      iceServers: (isRelayOnly) =>
        this.#signalling.iceServers(contact?.id).catch((error) => {
          if (isRelayOnly) throw error;
          return { iceServers: [], ttl: 0 };
        }),
      checkSession: () => this.#signalling.checkSession(),
      clock,
      timers,
      isRelayOnly: contact?.isDirectAllowed !== true,
      quality: this.#quality,
    };
  }

  /** Pairs with the person who shows this code, link or QR text. Rejects with `PairError` or `LinkError`. */
  async pair(code: string, signal?: AbortSignal): Promise<PairedContact> {
    const { pair } = await import("./page-pairing.js");
    return pairedContact(pair(code, this.#discovery, this.#pairingParts(signal)));
  }

  /** Shows a code. `site` is the site of the link: any page that says what to do with it. Rejects with `PairError`. */
  async showCode(
    options: { readonly site?: string; readonly isForLink?: boolean; readonly signal?: AbortSignal } = {},
  ): Promise<ShownPairing> {
    const { show } = await import("./page-pairing.js");
    const shown = await show(options, this.#discovery, this.#pairingParts(options.signal));
    const paired = pairedContact(shown.paired);
    // Without this, a rejection that the app does not await would be reported as unhandled.
    paired.catch(() => {});
    return { ...shown, paired };
  }

  /** What a pairing needs. It ends with the client, so that no code outlives a `close` or a `wipe`. */
  #pairingParts(signal?: AbortSignal): PairingParts {
    const signals = signal === undefined ? [this.#closed.signal] : [signal, this.#closed.signal];
    return { client: this.#signalling, finder: this.#discovery, signal: AbortSignal.any(signals) };
  }

  /** Renames a contact, for this person alone. */
  renameContact(contact: ContactId, name: string): Promise<void> {
    return this.#signalling.renameContact(contact, name);
  }

  /**
   * Blocks or unblocks a contact. To a blocked contact, this client appears offline. Waits up to five seconds until
   * the nodes in use have detached the contact's inbox, so that they deliver no call after that.
   */
  blockContact(contact: ContactId, isBlocked: boolean): Promise<void> {
    return this.#signalling.blockContact(contact, isBlocked);
  }

  /**
   * Allows paths other than relays in calls with a contact, or forbids them. With them, each side sees the other's IP
   * address, and calls work where no node relays media.
   */
  allowDirect(contact: ContactId, isAllowed: boolean): Promise<void> {
    return this.#signalling.allowDirect(contact, isAllowed);
  }

  /**
   * Asks whether a contact can be called now. The nodes learn that somebody asks, so ask only when a person wants to know.
   * Takes five seconds at most for each pairing with the contact, of which there is usually one.
   */
  isReachable(contact: ContactId): Promise<boolean> {
    return this.#signalling.isReachable(contact);
  }

  /**
   * The node's STUN and TURN servers, with credentials for `ttl` seconds: to test them. Calls request their own. Rejects
   * with {@link ConnectError}.
   */
  iceServers(): Promise<IceConfiguration> {
    return this.#signalling.iceServers();
  }

  /** Removes a contact, for example because the words differed. Waits as {@link blockContact} does. */
  removeContact(contact: ContactId): Promise<void> {
    return this.#signalling.removeContact(contact);
  }

  /** An encrypted file of the profile. Rejects with `ProfileFileError` unless it was created as exportable. */
  async exportProfile(passphrase: string): Promise<string> {
    const { exportProfile } = await import("./profile-file.js");
    return exportProfile(this.#signalling.profile.data, passphrase);
  }

  /**
   * Replaces the profile by that of an exported file. Call it before {@link connect}. Rejects with `ProfileFileError`, and
   * after two seconds with `ProfileError` while a client is connected, also one of another page; and if the profile is wiped
   * meanwhile.
   */
  async importProfile(file: string, passphrase: string): Promise<void> {
    const { profile } = this.#database;
    // First of all: nothing is stored if another page wipes the profile from here on.
    const release = await profile.acquire();
    try {
      const { readProfile } = await import("./profile-file.js");
      await profile.save(await readProfile(file, passphrase));
    } finally {
      release();
    }
  }
}

async function pairedContact(pairing: Promise<Paired>): Promise<PairedContact> {
  const { contact, words } = await pairing;
  return { contact: infoOf(contact), words };
}
