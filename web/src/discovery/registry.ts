/** The registry: a signed directory over HTTPS, and what the roots have stated. */

import { type Bytes, equalBytes, toBase64url } from "../core/bytes.js";
import { pause } from "../core/clock.js";
import { isPublicUrl } from "../core/special.js";
import {
  type Directory,
  decodeDirectory,
  ListError,
  type ListFault,
  MAX_DIRECTORY,
  type NodeList,
  recordsOf,
  signerFault,
  type Vouched,
} from "../core/statements.js";
import { type Fetch, get, OCTETS } from "./http.js";
import { type Candidate, newCandidate, type SeenList, type Source, SourceError } from "./source.js";
import { fetchStatements, type Trust } from "./trust.js";

/** How much longer than the first valid directory the others, and the statements, may take. In milliseconds. */
const GRACE = 150;

/** What one registry has answered. */
interface Answer {
  readonly url: string;
  readonly directory: Vouched<Directory>;
}

/** The registry of one federation, at one or several URLs. */
export function registrySource(urls: readonly string[], trust: Trust, isPrivate: boolean, fetcher: Fetch): Source {
  return {
    kind: "registry",
    list: async (now, signal) => {
      const asked = urls.map((url) => {
        const target = directoryUrl(url);
        // A file has no statements beside it.
        const statements = target === url ? undefined : fetchStatements(fetcher, baseOf(url), signal);
        const answer = get(fetcher, target, OCTETS, MAX_DIRECTORY, signal).then(
          async (bytes): Promise<Answer> => ({ url, directory: await readDirectory(bytes, trust, now, statements) }),
        );
        return { answer, statements };
      });
      const answers = asked.map(({ answer }) => answer);
      await Promise.any(answers).catch(({ errors }: AggregateError) => {
        throw errors.find((cause) => cause instanceof SourceError) ?? errors[0];
      });
      const over = pause(GRACE);
      const arrived = await Promise.all(answers.map((answer) => Promise.race([answer.catch(() => undefined), over])));
      // A registry without an answer, or without statements, does not affect the others.
      const lists = await Promise.all(asked.map(({ statements }) => Promise.race([statements, over])));
      for (const list of lists) if (list !== undefined) await trust.learn(list, now);
      const valid = arrived.filter((answer) => answer !== undefined);
      // The statements may have ended the root, or revoked the key, of a directory that arrived before them.
      const counting = valid.filter(({ directory }) => signerFault(directory, trust, now) === undefined);
      if (counting.length === 0) {
        // At least one directory was valid.
        const fault = signerFault((valid[0] as Answer).directory, trust, now) as ListFault;
        throw new SourceError(new ListError(fault).message);
      }
      // Numbers of different keys are not comparable: a registry that is ahead must not hide what the others list.
      const newest = counting.filter(({ directory: { keyId, seq } }) =>
        counting.every(({ directory: other }) => other.seq <= seq || !equalBytes(other.keyId, keyId)),
      );
      const candidates = await Promise.all(newest.map((answer) => candidatesOf(answer, isPrivate, now)));
      return {
        candidates: candidates.flat(),
        lists: counting.map(({ directory }) => listOf("directory", directory)),
      };
    },
  };
}

/** Decodes a directory. If the root was replaced, the statements of its registry lead to the new one. */
async function readDirectory(
  bytes: Bytes,
  trust: Trust,
  now: number,
  statements: Promise<Bytes> | undefined,
): Promise<Vouched<Directory>> {
  try {
    return await decodeDirectory(bytes, trust, now);
  } catch (error) {
    if (!(error instanceof ListError)) throw error;
    if (error.fault !== "not-by-a-root" || statements === undefined) throw new SourceError(error.message);
    await trust.learn(await statements, now);
    return readDirectory(bytes, trust, now, undefined);
  }
}

/** The nodes of a directory. A list from the internet can't lead a client into a private network. */
async function candidatesOf({ url, directory }: Answer, isPrivate: boolean, now: number): Promise<Candidate[]> {
  const mayBePrivate = isPrivate || !isPublicUrl(url);
  return (await recordsOf(directory, now)).flatMap((record) => {
    const urls = record.clientUrls.filter((one) => mayBePrivate || isPublicUrl(one));
    return urls.map((one) => newCandidate(one, record.node, toBase64url(record.node), "registry"));
  });
}

/** A list as the cache compares it. */
export function listOf(form: SeenList["form"], list: Vouched<NodeList>): SeenList {
  const { keyId, seq, shard, signed, issuedAt } = list;
  return { form, key: toBase64url(keyId), seq, part: shard.join("/"), bytes: signed, issuedAt };
}

/** A URL whose last part has a dot is a file, and is fetched as it is. */
function directoryUrl(url: string): string {
  const path = url.replace(/^[a-z]+:\/\/[^/]*/i, "");
  return /\/[^/]*\.[^/]*$/.test(path) ? url : `${baseOf(url)}/v1/directory`;
}

function baseOf(url: string): string {
  return url.replace(/\/+$/, "");
}
