/**
 * The roots of the federation and what they have stated, shared by everything that verifies lists.
 *
 * Most federations have never replaced a root or revoked a key. What reads such statements is loaded with the first one.
 */

import { type Bytes, concat, equalBytes, fromBase64url, fromHex } from "../core/bytes.js";
import { pause } from "../core/clock.js";
import { federationId, type ListTrust } from "../core/statements.js";
import { type Fetch, get, OCTETS } from "./http.js";
import type { RootStatements } from "./root-statements.js";
import { SourceError } from "./source.js";

/** Time limit for loading a part of this code, in milliseconds: a slow network needs a second or two. */
export const LOAD_TIME = 3000;
/** The longest list of root statements, in bytes. */
const MAX_LIST = 12_416;

/** The pinned roots, and the statements of roots that are known. */
export class Trust implements ListTrust {
  readonly pinned: readonly Bytes[];
  readonly federation: Promise<Bytes>;
  #known: RootStatements | undefined;
  #learning: Promise<unknown> = Promise.resolve();

  /**
   * `federation` is the id of the federation in hexadecimal digits, if the roots are not the founding ones. Throws
   * `SyntaxError` if an argument is not valid.
   */
  constructor(roots: readonly string[] = [], federation?: string) {
    this.pinned = roots.map((text) => {
      const key = fromBase64url(text, 32);
      if (key === undefined) throw new SyntaxError(`not a root: ${text}`);
      return key;
    });
    if (federation !== undefined && !/^[0-9a-f]{32}$/i.test(federation)) {
      throw new SyntaxError(`not a federation: ${federation}`);
    }
    this.federation = federation === undefined ? federationId(this.pinned) : Promise.resolve(fromHex(federation));
  }

  accepts(root: Uint8Array, now: number): boolean {
    return this.#known?.accepts(root, now) ?? this.pinned.some((pinned) => equalBytes(pinned, root));
  }

  revokes(key: Uint8Array): boolean {
    return this.#known?.revokes(key) ?? false;
  }

  /** The statements that count, as a list. */
  get statements(): Bytes {
    return this.#known?.encode() ?? new Uint8Array();
  }

  /** The roots that no other key has replaced. */
  get current(): readonly Bytes[] {
    return this.#known?.current ?? this.pinned;
  }

  /**
   * Learns the statements of a list that count, and skips the others. `now` is in seconds since 1970; without it the list is
   * this client's own. Rejects if the code that reads statements cannot be loaded: the caller must not ignore the list then.
   */
  learn(list: Uint8Array, now?: number): Promise<void> {
    if (list.length === 0 || this.pinned.length === 0) return Promise.resolve();
    // One after another: each begins with what the last one has left.
    const learned = this.#learning.then(async () => {
      const module = await Promise.race([import("./root-statements.js"), pause(LOAD_TIME)]);
      if (module === undefined) throw new SourceError("no answer in time");
      this.#known ??= new module.RootStatements(this.pinned, await this.federation);
      await this.#known.learnList(list, now);
    });
    this.#learning = learned.catch(() => {});
    return learned;
  }
}

/** A statement with its length in front, as in a list. */
export function framed(statement: Uint8Array): Bytes {
  return concat(new Uint8Array([statement.length & 0xff, statement.length >> 8]), statement);
}

/** Fetches the statements that a registry or node knows. Resolves with an empty list if it sends none. */
export async function fetchStatements(fetcher: Fetch, base: string, signal: AbortSignal): Promise<Bytes> {
  try {
    return await get(fetcher, `${base}/v1/revocations`, OCTETS, MAX_LIST, signal);
  } catch (error) {
    if (error instanceof SourceError) return new Uint8Array();
    throw error;
  }
}
