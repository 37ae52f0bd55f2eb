/** The signalling client: attached to a node, it calls and is called. It knows no media. */
import { Attaching, type InboxRejection } from "./attaching.js";
import { CallDriver } from "./call-driver.js";
import type { Clock } from "./clock.js";
import { SystemClock, Timers } from "./clock.js";
import type { Contact, ContactId, PairingId } from "./contact.js";
import { TypedEventTarget } from "./events.js";
import { readIceServers } from "./ice-servers.js";
import { lookUp } from "./lookup.js";
import type { Json } from "./messages.js";
import type { DiscoverError, NodeCheck, NodeFinder } from "./node-finder.js";
import { Profile, type ProfileStore } from "./profile.js";
import type { CallId } from "./seal.js";
import type { DisconnectReason, Session } from "./session.js";
import type { SignalledCall } from "./signalled-call.js";

/** How long the client may take to end its call when it is closed, in milliseconds. */
const END_TIMEOUT = 2_000;

/** The events of a {@link SignallingClient}, with their `detail`. */
export interface SignallingEvents {
  /** The client is attached to a node, and its contacts can call. */
  connected: { readonly node: string; readonly url: string; readonly region: string | undefined };
  /** The session with a node has ended. The client searches another by itself. */
  disconnected: { readonly node: string; readonly reason: DisconnectReason };
  /** No node was found. The client searches again after `retryIn` milliseconds. */
  searchfailed: { readonly error: DiscoverError; readonly retryIn: number };
  /** Nodes were found, but none attached the inboxes: usually the clock of this device is wrong. */
  notattached: undefined;
  /** Whether a second source confirms the node, and what each source has come to. */
  nodechecked: NodeCheck & { readonly node: string };
  /** This contact can call from now on. */
  reachable: { readonly contact: ContactId };
  /** The node has rejected this contact's inbox: the contact cannot call now. The client tries again in a minute. */
  inboxrejected: { readonly contact: ContactId; readonly reason: InboxRejection };
  /** A contact calls. With `rejoins`, it comes back into that call: answer without ringing. */
  incomingcall: { readonly call: SignalledCall; readonly contact: Contact; readonly rejoins: CallId | undefined };
  /** A contact was added, changed or removed. */
  contactschanged: undefined;
}

/** STUN and TURN servers, with credentials that are valid for `ttl` seconds. */
export interface IceConfiguration {
  readonly iceServers: RTCIceServer[];
  readonly ttl: number;
}

/** The client cannot connect. It goes on trying, unless it is closed. */
export class ConnectError extends Error {
  override readonly name = "ConnectError";
  constructor(
    /**
     * `no-node`: see `cause`, a {@link DiscoverError}. `not-attached`: usually the clock is wrong. `refused`: the node is
     * there, and has not done what it was asked for.
     */
    readonly code: "no-node" | "not-attached" | "refused" | "closed",
    options?: ErrorOptions,
  ) {
    super(
      {
        "no-node": "no node was found",
        "not-attached": "no node attached this profile's inboxes; is the clock right?",
        refused: "the node refuses, or does not answer",
        closed: "the client is not connected, or was closed",
      }[code],
      options,
    );
  }
}

/** What a client is made of. */
export interface SignallingOptions {
  readonly store: ProfileStore;
  readonly finder: NodeFinder;
  /** The name that contacts see at first. Only used when the profile is created. */
  readonly name: string;
  /** Whether the profile can be exported later. Only used when it is created; scripts of the page can read its keys then. */
  readonly isExportable?: boolean;
  /** Whether the nodes' relays may be in a private network. */
  readonly isPrivate?: boolean;
  /** Ids of nodes to which any other is preferred at first. */
  readonly avoid?: readonly string[];
  readonly clock?: Clock;
  readonly timers?: Timers;
}

interface Running {
  readonly profile: Profile;
  readonly attaching: Attaching;
  readonly calls: CallDriver;
  /** Lets another client use the profile. */
  release(): void;
}

/** A signalling client. Constructing it does nothing. */
export class SignallingClient extends TypedEventTarget<SignallingEvents> {
  readonly clock: Clock;
  readonly timers: Timers;
  readonly #options: SignallingOptions;
  #connecting: Promise<void> | undefined;
  #abort: AbortController | undefined;
  #closing: Promise<void> | undefined;
  #running: Running | undefined;

  constructor(options: SignallingOptions) {
    super();
    this.#options = options;
    this.clock = options.clock ?? new SystemClock();
    this.timers = options.timers ?? new Timers(this.clock);
  }

  /**
   * Connects, and resolves once the client is attached to a node. Called again meanwhile, it returns the same promise;
   * after {@link close}, it connects anew. Rejects with {@link ConnectError} if the first search finds no node, or no node
   * attaches an inbox; the client goes on searching then. Rejects with `ProfileError` if another client uses the profile,
   * and with the store's error if that cannot be read; then nothing runs.
   */
  connect(): Promise<void> {
    if (this.#running?.attaching.ready !== undefined) return Promise.resolve();
    if (this.#connecting === undefined) {
      const connecting = this.#connectOnce().finally(() => {
        if (this.#connecting === connecting) this.#connecting = undefined;
      });
      this.#connecting = connecting;
    }
    return this.#connecting;
  }

  async #connectOnce(): Promise<void> {
    if (this.#running !== undefined && this.#abort !== undefined) return this.#connectingSignal(this.#abort.signal);
    const abort = new AbortController();
    this.#abort = abort;
    // After `close`, its writes and its lock come first.
    await this.#closing;
    const { store, name, isExportable } = this.#options;
    const release = await store.acquire();
    try {
      // Another page may have wiped the profile while this client waited for it: opening would create it again.
      abort.signal.throwIfAborted();
      const profile = await Profile.open(store, name, isExportable);
      abort.signal.throwIfAborted();
      const connecting = this.#connectingSignal(abort.signal);
      this.#running = { ...this.#start(profile, abort.signal), release };
      return await connecting;
    } catch (error) {
      if (this.#running?.release !== release) release();
      throw error;
    }
  }

  #start(profile: Profile, signal: AbortSignal): Omit<Running, "release"> {
    const { finder } = this.#options;
    finder.setReferrals(profile.contacts.flatMap((contact) => contact.nodes));
    const calls: CallDriver = new CallDriver({
      profile,
      finder,
      clock: this.clock,
      timers: this.timers,
      attaching: () => attaching,
      onIncoming: (call, contact, rejoins) => this.emit("incomingcall", { call, contact, rejoins }),
      // If the write fails, both pairings stay in use, and the contact's next message tries again.
      onLearned: (change) =>
        change.then(
          () => this.#contactsChanged(),
          () => {},
        ),
    });
    const attaching: Attaching = new Attaching(
      {
        finder,
        profile,
        clock: this.clock,
        timers: this.timers,
        onMessage: (session, message: Json) => calls.handleMessage(session, message),
        events: {
          connected: (session) => {
            const { nodeId, url, region } = session.connection;
            this.emit("connected", { node: nodeId, url, region });
            calls.handleReady();
          },
          disconnected: (session, reason) => this.emit("disconnected", { node: session.connection.nodeId, reason }),
          searchFailed: (error, retryIn) => this.emit("searchfailed", { error, retryIn }),
          checked: (node, check) => this.emit("nodechecked", { node, ...check }),
          reachable: (contact) => this.emit("reachable", { contact }),
          rejected: (contact, reason) => this.emit("inboxrejected", { contact, reason }),
          notAttached: () => this.emit("notattached", undefined),
        },
      },
      this.#options.avoid ?? [],
      signal,
    );
    return { profile, attaching, calls };
  }

  /** Resolves at the first attachment, and rejects at the first failure. */
  #connectingSignal(closed: AbortSignal): Promise<void> {
    const settled = new AbortController();
    const { signal } = settled;
    return new Promise<void>((resolve, reject) => {
      this.addEventListener("connected", () => resolve(), { signal });
      this.addEventListener(
        "searchfailed",
        ({ detail }) => reject(new ConnectError("no-node", { cause: detail.error })),
        { signal },
      );
      this.addEventListener("notattached", () => reject(new ConnectError("not-attached")), { signal });
      closed.addEventListener("abort", () => reject(closed.reason), { signal });
    }).finally(() => settled.abort());
  }

  /** Ends the active call and the sessions, and waits for what is being stored. Takes two seconds at most. */
  close(): Promise<void> {
    const [running, abort, former] = [this.#running, this.#abort, this.#closing];
    // Its caller gets the rejection.
    const connecting = this.#connecting?.catch(() => {});
    this.#running = this.#abort = this.#connecting = undefined;
    this.#closing = (async () => {
      await former;
      await running?.calls.shutdown(END_TIMEOUT);
      abort?.abort(new ConnectError("closed"));
      running?.attaching.close();
      await connecting;
      await running?.profile.close();
      running?.release();
    })();
    return this.#closing;
  }

  /** The id of the node in use, or `undefined`. */
  get node(): string | undefined {
    return this.#running?.attaching.ready?.connection.nodeId;
  }

  /**
   * All sessions, also one that is being attached or replaced.
   *
   * @internal
   */
  get sessions(): Iterable<Session> {
    return this.#running?.attaching.sessions ?? [];
  }

  /** The contacts, in the order in which they were paired. Empty before {@link connect}. */
  get contacts(): readonly Contact[] {
    return this.#running?.profile.contacts ?? [];
  }

  /** Calls a contact with a session description. `rejoins` is the call that this device was in before it was loaded. */
  async call(contact: ContactId, offer: string, rejoins?: CallId): Promise<SignalledCall> {
    return this.#use().calls.place(contact, offer, rejoins);
  }

  /**
   * Requests the node's STUN and TURN servers, with credentials for `ttl` seconds. Waits up to five seconds. Servers in
   * private networks are left out, unless that is where the node is. A node gives them only to a client that is attached,
   * so the inboxes of `contact`, who is about to be called, are attached first. Rejects with {@link ConnectError}: `refused` if
   * the node refuses or does not answer in time, which may have relays all the same; `closed` without a session.
   */
  async iceServers(contact?: ContactId): Promise<IceConfiguration> {
    const { attaching } = this.#use();
    const isAttached = (attaching.ready?.leases.attachedCount ?? 0) > 0;
    if (contact !== undefined && !isAttached) await attaching.attachNow(contact);
    const session = attaching.ready;
    if (session === undefined) throw new ConnectError("closed");
    const outcome = await session.request({ type: "get_ice_servers" });
    if (!outcome.ok) throw new ConnectError(outcome.isClosed ? "closed" : "refused");
    const mayBePrivate = this.#options.isPrivate ?? false;
    const iceServers = readIceServers(outcome.reply.iceServers, session.connection.url, mayBePrivate);
    return { iceServers, ttl: typeof outcome.reply.ttl === "number" ? outcome.reply.ttl : 0 };
  }

  /**
   * Asks whether a contact can be called now. The nodes learn that somebody asks, so ask only when a person wants to know.
   * Takes five seconds at most for each pairing with the contact, of which there is usually one.
   */
  async isReachable(contact: ContactId): Promise<boolean> {
    const { profile, attaching } = this.#use();
    for (const pairing of profile.contact(contact)?.pairings ?? []) {
      const session = attaching.ready;
      if (session === undefined) throw new ConnectError("closed");
      if ((await lookUp(session, pairing, this.clock.unixMs())).lease !== undefined) return true;
    }
    return false;
  }

  /** Whether the client was connected and not closed. */
  get isRunning(): boolean {
    return this.#running !== undefined;
  }

  /** The profile in use. Throws before {@link connect}. */
  get profile(): Profile {
    return this.#use().profile;
  }

  /** Stores a contact after a pairing. `isStored`: the contact has stored it too. */
  async addContact(contact: Contact, isStored: boolean): Promise<Contact> {
    const { profile, attaching } = this.#use();
    const pairing = contact.pairings[0];
    const stored = await profile.add(contact, isStored);
    if (pairing !== undefined) attaching.delay(pairing.id);
    void this.#contactsChanged();
    return stored;
  }

  /** Records that a contact has stored this pairing, and drops the older ones. */
  async confirmPairing(contact: ContactId, pairing: PairingId): Promise<void> {
    await this.#changed(this.#use().profile.confirm(contact, pairing));
  }

  /** Renames a contact, for this person alone. */
  async renameContact(contact: ContactId, name: string): Promise<void> {
    await this.#changed(this.#use().profile.rename(contact, name));
  }

  /**
   * Blocks or unblocks a contact. To a blocked contact, this client appears offline. Waits up to five seconds until
   * the nodes in use have detached the contact's inbox, so that they deliver no call after that.
   */
  async blockContact(contact: ContactId, isBlocked: boolean): Promise<void> {
    await this.#changed(this.#use().profile.block(contact, isBlocked));
  }

  /** Allows paths other than relays in calls with a contact, or forbids them. */
  async allowDirect(contact: ContactId, isAllowed: boolean): Promise<void> {
    await this.#changed(this.#use().profile.allowDirect(contact, isAllowed));
  }

  /** Removes a contact, for example because the words differed. Waits as {@link blockContact} does. */
  async removeContact(contact: ContactId): Promise<void> {
    await this.#changed(this.#use().profile.remove(contact));
  }

  /** Checks the session at once: the device was asleep, or its network has changed. */
  wake(): void {
    this.#running?.attaching.wake();
  }

  /** Checks the session as quickly as a call needs that has lost its media. */
  checkSession(): void {
    this.#running?.attaching.checkSession();
  }

  #use(): Running {
    if (this.#running === undefined) throw new ConnectError("closed");
    return this.#running;
  }

  async #changed(change: Promise<unknown>): Promise<void> {
    await change;
    await this.#contactsChanged();
  }

  async #contactsChanged(): Promise<void> {
    const running = this.#running;
    if (running === undefined) return;
    this.#options.finder.setReferrals(running.profile.contacts.flatMap((contact) => contact.nodes));
    const applied = running.attaching.contactsChanged();
    this.emit("contactschanged", undefined);
    await applied;
  }
}
