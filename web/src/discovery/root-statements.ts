/**
 * What the roots of a federation have stated about keys: successions of roots, and revocations of online keys. Loaded when a
 * list with such statements is seen. `docs/protocol/federation.md` has the rules.
 *
 * A chain of successions leads from the founding roots, which have the federation's id, to the current ones, and passes
 * through the pinned ones. So nobody can put another beginning or end to it.
 */
import { type Bytes, concat, equalBytes } from "../core/bytes.js";
import { DecodeError } from "../core/postcard.js";
import { federationId, type Kind, MAX_CLOCK_SKEW, tryDecode } from "../core/statements.js";
import { framed } from "./trust.js";

/** The most successions of a federation: at one a year these are twelve years. */
export const MAX_SUCCESSIONS = 12;
/** The most revocations: with delegations of 90 days, a stolen key every other day. */
export const MAX_REVOCATIONS = 64;
/** The longest time for which an old root is accepted beside its successor, in seconds. */
const MAX_OVERLAP = 366 * 24 * 3600;

/** The old root's part: which key follows it. */
interface Successor {
  readonly federation: Bytes;
  readonly old: Bytes;
  readonly next: Bytes;
}

/** The statement that the new root signs. Times are seconds since 1970. */
interface Succession extends Successor {
  /** The old root's signature of the {@link Successor}. */
  readonly signature: Bytes;
  readonly issuedAt: number;
  readonly oldUntil: number;
}

/** A root's statement that invalidates everything that an online key signs. */
interface Revocation {
  readonly federation: Bytes;
  readonly root: Bytes;
  readonly key: Bytes;
  readonly issuedAt: number;
}

type Statement = (Succession | Revocation) & { readonly bytes: Uint8Array };
type Signed<T> = T & { readonly bytes: Uint8Array };

function readSuccessor(federation: Bytes, old: Bytes, next: Bytes): Successor {
  if (equalBytes(old, next)) throw new DecodeError("a root does not follow itself");
  return { federation, old, next };
}

const SUCCESSOR: Kind<Successor> = {
  name: "root-successor",
  maxLength: 144,
  read: (reader) => readSuccessor(reader.bytes(16), reader.bytes(32), reader.bytes(32)),
  signer: ({ old }) => old,
};

const SUCCESSION: Kind<Succession> = {
  name: "root-succession",
  maxLength: 232,
  read: (reader) => {
    const successor = SUCCESSOR.read(reader);
    const succession = {
      ...successor,
      signature: reader.bytes(64),
      issuedAt: reader.varint(),
      oldUntil: reader.varint(),
    };
    const { issuedAt, oldUntil } = succession;
    if (oldUntil < issuedAt || oldUntil > issuedAt + MAX_OVERLAP) throw new DecodeError("a time is out of bounds");
    return succession;
  },
  signer: ({ next }) => next,
};

const REVOCATION: Kind<Revocation> = {
  name: "key-revocation",
  maxLength: 192,
  read: (reader) => {
    const [federation, root, key] = [reader.bytes(16), reader.bytes(32), reader.bytes(32)];
    // A thief of the root could do the same.
    if (equalBytes(root, key)) throw new DecodeError("a root does not revoke itself");
    return { federation, root, key, issuedAt: reader.varint() };
  },
  signer: ({ root }) => root,
};

/** Decodes a statement and verifies its signatures, or returns `undefined`. Whether it counts is not checked. */
async function decode(bytes: Uint8Array): Promise<Statement | undefined> {
  // The shapes differ in length, so at most one of them costs a verification.
  const succession = await tryDecode(SUCCESSION, bytes);
  if (succession === undefined) {
    const revocation = await tryDecode(REVOCATION, bytes);
    return revocation && { ...revocation, bytes };
  }
  const { federation, old, next, signature } = succession;
  const successor = await tryDecode(SUCCESSOR, concat(federation, old, next, signature));
  return successor && { ...succession, bytes };
}

/** The roots with their successions, and the online keys that they have revoked. */
export class RootStatements {
  readonly #pinned: readonly Bytes[];
  readonly #federation: Bytes;
  /** `undefined` if the pinned roots are later ones, until the chain to them is learned. */
  #founding: readonly Bytes[] | undefined;
  /** In the order in which they apply. */
  readonly #chain: Signed<Succession>[] = [];
  /** The oldest first. */
  readonly #revocations: Signed<Revocation>[] = [];
  #isForkReported = false;

  constructor(pinned: readonly Bytes[], federation: Bytes) {
    this.#pinned = pinned;
    this.#federation = federation;
  }

  /** An old root counts only as long as its successor does, so the thief of an old root can make up no older one. */
  accepts(root: Uint8Array, now: number): boolean {
    return this.#knows(root) && now < this.#endOf(root);
  }

  revokes(key: Uint8Array): boolean {
    return this.#revocations.some((revocation) => equalBytes(revocation.key, key));
  }

  /** The roots that no other key has replaced. */
  get current(): readonly Bytes[] {
    return this.#chain.reduce((roots, { old, next }) => replaced(roots, old, next) ?? roots, this.#first);
  }

  /** The statements as a list, the successions first. */
  encode(): Bytes {
    return concat(...[...this.#chain, ...this.#revocations].map(({ bytes }) => framed(bytes)));
  }

  /** Learns the statements that count, successions first. Without `now` the list is this client's own. */
  async learnList(list: Uint8Array, now: number | undefined): Promise<void> {
    const statements = await this.#decodeList(list);
    const successions = statements.filter((one) => "next" in one).slice(0, MAX_SUCCESSIONS);
    this.#founding ??= await this.#findFounding(successions);
    if (this.#founding !== undefined) this.#learnSuccessions(successions);
    for (const one of statements) if ("key" in one && this.#counts(one, now)) this.#revoke(one);
  }

  /** What of a list is a statement. A list that is cut off has none. */
  async #decodeList(list: Uint8Array): Promise<Statement[]> {
    const known = [...this.#chain, ...this.#revocations];
    const decoded: (Statement | undefined | Promise<Statement | undefined>)[] = [];
    for (let at = 0; at < list.length; ) {
      const end = at + 2 + (list[at] as number) + (list[at + 1] ?? 0) * 256;
      if (end > list.length) return [];
      const bytes = list.slice(at + 2, end);
      // Every registry and node sends the same ones, and a signature takes milliseconds on a slow device.
      decoded.push(known.find((one) => equalBytes(one.bytes, bytes)) ?? decode(bytes));
      at = end;
    }
    return (await Promise.all(decoded)).filter((one) => one !== undefined);
  }

  /** The founding roots: the pinned ones, or those from which a beginning of this list leads to the pinned ones. */
  async #findFounding(list: readonly Succession[]): Promise<readonly Bytes[] | undefined> {
    for (let count = 0; count <= list.length; count++) {
      let roots: readonly Bytes[] | undefined = this.#pinned;
      for (const { old, next } of list.slice(0, count).reverse()) roots = roots && replaced(roots, next, old);
      if (roots !== undefined && equalBytes(await federationId(roots), this.#federation)) return roots;
    }
    return undefined;
  }

  #learnSuccessions(list: readonly Signed<Succession>[]): void {
    // The records of a DNS answer have no order, so a succession may stand before the one that it follows.
    const waiting = list.filter((one) => !this.#learnSuccession(one));
    if (waiting.length > 0 && waiting.length < list.length) this.#learnSuccessions(waiting);
  }

  /** Returns `false` if the old root is not known yet. */
  #learnSuccession(one: Signed<Succession>): boolean {
    if (!equalBytes(one.federation, this.#federation)) return true;
    const at = this.#chain.findIndex((known) => equalBytes(known.old, one.old));
    const known = this.#chain[at];
    if (known !== undefined) {
      if (!equalBytes(known.next, one.next)) this.#reportFork();
      else if (one.issuedAt > known.issuedAt) this.#chain[at] = one;
      return true;
    }
    if (!this.#knows(one.old)) return false;
    if (!this.#knows(one.next) && this.#chain.length < MAX_SUCCESSIONS) this.#chain.push(one);
    return true;
  }

  #reportFork(): void {
    if (!this.#isForkReported) console.warn("a root has signed two successors; the first one that was learned stays");
    this.#isForkReported = true;
  }

  /** An own list was checked when it was learned, so revocations by roots that have ended since stay. */
  #counts({ federation, root, issuedAt }: Revocation, now: number | undefined): boolean {
    if (!equalBytes(federation, this.#federation)) return false;
    if (now === undefined) return this.#knows(root);
    // The oldest make room, so a thief of a root could fill the list for ever with dates that lie ahead.
    return this.accepts(root, now) && issuedAt <= now + MAX_CLOCK_SKEW;
  }

  #revoke(one: Signed<Revocation>): void {
    const all = this.#revocations;
    // One for each key and root: a reader may know only one of two roots.
    if (all.some(({ key, root }) => equalBytes(key, one.key) && equalBytes(root, one.root))) return;
    const later = all.findIndex(({ issuedAt }) => issuedAt > one.issuedAt);
    all.splice(later < 0 ? all.length : later, 0, one);
    if (all.length > MAX_REVOCATIONS) all.shift();
  }

  get #first(): readonly Bytes[] {
    return this.#founding ?? this.#pinned;
  }

  #knows(key: Uint8Array): boolean {
    return [...this.#first, ...this.#chain.map(({ next }) => next)].some((known) => equalBytes(known, key));
  }

  /** When an old root ends; never for a current one. */
  #endOf(root: Uint8Array): number {
    const succession = this.#chain.find(({ old }) => equalBytes(old, root));
    return succession === undefined
      ? Number.POSITIVE_INFINITY
      : Math.min(succession.oldUntil, this.#endOf(succession.next));
  }
}

/** These keys with one in place of another, or `undefined` if that is not among them. */
function replaced(keys: readonly Bytes[], from: Uint8Array, to: Bytes): readonly Bytes[] | undefined {
  const at = keys.findIndex((key) => equalBytes(key, from));
  return at < 0 ? undefined : keys.map((key, index) => (index === at ? to : key));
}
