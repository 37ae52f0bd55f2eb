/**
 * The protocol's vectors as checks that run anywhere: in Node, Chromium and Firefox. Each throws what is wrong.
 */
import cpaceVectors from "../../docs/protocol/vectors/cpace-ristretto255-sha512.json" with { type: "json" };
import inboxVectors from "../../docs/protocol/vectors/inbox.json" with { type: "json" };
import negotiationVectors from "../../docs/protocol/vectors/negotiation.json" with { type: "json" };
import pairingVectors from "../../docs/protocol/vectors/pairing.json" with { type: "json" };
import sealingVectors from "../../docs/protocol/vectors/sealing.json" with { type: "json" };
import signedVectors from "../../docs/protocol/vectors/signed.json" with { type: "json" };
import { concat, fromBase64url, toBase64url, toHex, utf8 } from "../src/core/bytes.js";
import {
  addressText,
  newPairing,
  ownInbox,
  type Pairing,
  peerAddress,
  sealingSecret,
  storedTag,
} from "../src/core/contact.js";
import { signerOfSeed } from "../src/core/ed25519.js";
import { deriveSecretKey } from "../src/core/hpke.js";
import { iceText, readIce } from "../src/core/messages.js";
import { Negotiation, NegotiationError, type NegotiationOutput } from "../src/core/negotiation.js";
import { type CallKind, callIdOf, type Direction, open, parseEnvelope, seal } from "../src/core/seal.js";
import {
  accessHash,
  decodeDirectory,
  decodeLease,
  federationId,
  proveAttach,
  recordsOf,
  signLease,
  verifyNodeProof,
} from "../src/core/statements.js";
import { hkdfKey, x25519OfBytes } from "../src/core/x25519.js";
import { decodeShard } from "../src/discovery/shard.js";
import { framed, Trust } from "../src/discovery/trust.js";
import {
  Exchange,
  generator,
  generatorString,
  InvalidShareError,
  littleEndian,
  multiply,
} from "../src/pairing/cpace.js";
import { PairingKeys } from "../src/pairing/keys.js";
import { Confirmed } from "../src/pairing/pairing.js";

type Check = readonly [name: string, run: () => void | Promise<void>];

function bytes(hex: string): Uint8Array<ArrayBuffer> {
  return new Uint8Array((hex.match(/../g) ?? []).map((byte) => Number.parseInt(byte, 16)));
}

function hex(value: Uint8Array): string {
  return Array.from(value, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function same(actual: unknown, expected: unknown, what: string): void {
  const [a, b] = [actual, expected].map((value) => (value instanceof Uint8Array ? hex(value) : JSON.stringify(value)));
  if (a !== b) throw new Error(`${what}: ${a} instead of ${b}`);
}

const seed = (byte: string) => bytes(byte.repeat(32));

function cpace(): void {
  const v = cpaceVectors.vectors;
  const [prs, ci, sid] = [v.PRS, v.CI, v.sid].map(bytes) as [Uint8Array, Uint8Array, Uint8Array];
  same(generatorString(prs, ci, sid), bytes(cpaceVectors.generator_string), "generator string");
  same(new Uint8Array(generator(prs, ci, sid).toBytes()), bytes(v.g), "generator");
  const wide = (scalar: string) => concat(bytes(scalar), new Uint8Array(32));
  const [a, b] = [new Exchange(prs, ci, sid, wide(v.ya)), new Exchange(prs, ci, sid, wide(v.yb))];
  same(a.share, bytes(v.Ya), "Ya");
  same(b.share, bytes(v.Yb), "Yb");
  same(multiply(littleEndian(bytes(v.ya)), b.share), bytes(v.K), "K");
}

function cpaceInvalidPoints(): void {
  const { points } = cpaceVectors;
  const scalar = littleEndian(bytes(points.Valid.s));
  same(multiply(scalar, bytes(points.Valid.X)), bytes(points.Valid["G.scalar_mult_vfy(s,X)"]), "a valid point");
  for (const invalid of [points["Invalid Y1"], points["Invalid Y2"]]) {
    try {
      multiply(scalar, bytes(invalid));
    } catch (error) {
      if (error instanceof InvalidShareError) continue;
      throw error;
    }
    throw new Error("an invalid point was taken");
  }
}

async function pairing(): Promise<void> {
  const v = pairingVectors;
  const keys = new PairingKeys(bytes(v.isk));
  const [a, b] = [await x25519OfBytes(bytes(v.identity_secret_a)), await x25519OfBytes(bytes(v.identity_secret_b))];
  const [challengeA, challengeB] = [
    await x25519OfBytes(bytes(v.challenge_secret_a)),
    await x25519OfBytes(bytes(v.challenge_secret_b)),
  ];
  const dataA = concat(bytes(v.commitment), challengeA.publicKey);
  const dataB = concat(bytes(v.nonce_b), challengeB.publicKey);
  same(keys.confirm("a", bytes(v.share_a), dataA), bytes(v.confirmation_a), "confirmation of A");
  same(keys.confirm("b", bytes(v.share_b), dataB), bytes(v.confirmation_b), "confirmation of B");
  same(await keys.possession("a", a, challengeB.publicKey), bytes(v.possession_a), "possession of A");
  same(await keys.possession("b", b, challengeA.publicKey), bytes(v.possession_b), "possession of B");
  if (!(await keys.isPossessed("b", challengeA, b.publicKey, bytes(v.possession_b)))) throw new Error("possession");
  const opened = keys.open("a", bytes(v.sealed_a));
  same(opened?.name, v.name_a, "name of A");
  if (opened === undefined) throw new Error("A's identity does not open");
  same(keys.seal("a", opened), bytes(v.sealed_a), "A's identity, sealed again");
  same(keys.words(bytes(v.nonce_a), bytes(v.nonce_b)), v.words, "words");

  // B's identity, as A receives it.
  const random = {
    scalar: new Uint8Array(64),
    nonce: bytes(v.nonce_a),
    challenge: challengeA,
    root: bytes(v.root_seed_a),
    kem: bytes(v.kem_seed_a),
  };
  const confirmed = new Confirmed(keys, { identity: a, name: v.name_a }, random, v.words);
  const reply = { sealed: toBase64url(bytes(v.sealed_b)), possession: toBase64url(bytes(v.possession_b)) };
  const { contact } = await confirmed.handleReply(reply);
  same(contact.name, v.name_b, "name of B");
  same(contact.identity, b.publicKey, "identity of B");
  const made = contact.pairings[0] as Pairing;
  const expected = { ...made, secret: await hkdfKey(bytes(v.pairing_secret)) };
  same(await sealingSecret(made), await sealingSecret(expected), "pairing secret");
  same(await storedTag(made), bytes(v.stored), "stored");
}

async function inboxes(): Promise<void> {
  const secret = await hkdfKey(bytes(inboxVectors.pairing_secret));
  for (const v of inboxVectors.inboxes) {
    const role = v.owner as "a" | "b";
    const root = fromBase64url(v.root, 32) as Uint8Array<ArrayBuffer>;
    const own = await newPairing({ role, secret, ownRoot: bytes(v.root_seed), peerRoot: root });
    const inbox = await ownInbox(own, v.day);
    same(inbox.text, v.inbox, "inbox");
    same(inbox.token, bytes(v.token), "token");
    same(await inbox.key.sign(utf8("message")), bytes(v.signature_of_message), "signature");
    const peer: Pairing = { ...own, role: role === "a" ? "b" : "a" };
    same(addressText(await peerAddress(peer, v.day * 86_400 + 5)), v.address, "address");
    same(await sealingSecret(own), bytes(inboxVectors.sealing_secret), "sealing secret");
  }
}

async function sealing(): Promise<void> {
  for (const v of sealingVectors.messages) {
    const [sender, recipient] = [
      await x25519OfBytes(bytes(v.senderSecret)),
      await x25519OfBytes(bytes(v.recipientSecret)),
    ];
    const direction: Direction = v.direction === "toCallee" ? "to-callee" : "to-caller";
    const kind = v.type as CallKind;
    const envelope = parseEnvelope(v.payload);
    if (envelope === undefined) throw new Error("not an envelope");
    same([envelope.call, envelope.counter], [callIdOf(bytes(v.callId)), v.counter], "header");
    const secret = bytes(v.sealingSecret);
    same(await open(envelope, secret, sender.publicKey, recipient, direction, kind), v.text, "text");
    const other = kind === "call_offer" ? "call_answer" : "call_offer";
    same(await open(envelope, secret, sender.publicKey, recipient, direction, other), undefined, "another kind");
    const ephemeral = await x25519OfBytes(await deriveSecretKey(bytes(v.ephemeralIkm)));
    const context = { call: envelope.call, direction, kind, counter: v.counter };
    const hasDescription = envelope.bytes.length > 8192;
    const sealed = await seal(secret, sender, recipient.publicKey, context, v.text, hasDescription, ephemeral);
    same(sealed, v.payload, "sealed again");
  }
}

async function statements(): Promise<void> {
  const v = signedVectors;
  const root = await signerOfSeed(seed(v.seeds.root));
  const node = await signerOfSeed(seed(v.seeds.node));
  const inbox = await signerOfSeed(seed(v.seeds.inbox));
  same(await federationId([root.publicKey]), bytes(v.federation_id), "federation");
  const lease = await decodeLease(bytes(v.lease));
  if (lease === undefined) throw new Error("the lease does not decode");
  same(lease.inbox, inbox.publicKey, "inbox");
  same(lease.access, await accessHash(new Uint8Array(16).fill(9)), "access");
  same(await signLease(lease, inbox), bytes(v.lease), "lease, signed again");
  same(await proveAttach(inbox, seed(v.attach.nonce), bytes(v.lease)), bytes(v.attach.proof), "attach proof");
  const { prove } = v;
  const proof = [node.publicKey, seed(prove.challenge), seed(prove.nonce), prove.url, bytes(prove.signature)] as const;
  if (!(await verifyNodeProof(...proof))) throw new Error("the node's proof does not verify");
  const damaged = bytes(v.lease);
  damaged[3] = (damaged[3] as number) ^ 1;
  same(await decodeLease(damaged), undefined, "a damaged lease");

  const trust = new Trust([toBase64url(root.publicKey)]);
  const directoryBytes = bytes(v.directory);
  const directory = await decodeDirectory(directoryBytes, trust, NOW);
  same((await recordsOf(directory, NOW))[0]?.clientUrls, ["wss://relay.example/ws"], "record");
  const shard = await decodeShard(fromBase64url(v.shard_text.replace("chappe1=", "")) ?? new Uint8Array(0), trust, NOW);
  same(shard.nodes.length, 3, "nodes of the shard");
}

/** The time of the vectors, and how long their old root is accepted beside its successor. In seconds. */
const NOW = 1_800_000_000;
const OVERLAP = 90 * 24 * 3600;

async function rootStatements(): Promise<void> {
  const v = signedVectors;
  const [root, next, online] = (
    await Promise.all([v.seeds.root, v.seeds.next_root, v.seeds.online].map((byte) => signerOfSeed(seed(byte))))
  ).map(({ publicKey }) => publicKey) as [Uint8Array, Uint8Array, Uint8Array];
  const parts = [v.root_succession, v.key_revocation].map(bytes);
  same(toBase64url(parts[0] as Uint8Array), v.root_succession_text.replace("chappe1s=", ""), "text of the succession");
  same(toBase64url(parts[1] as Uint8Array), v.revocation_text.replace("chappe1r=", ""), "text of the revocation");
  const list = concat(...parts.map(framed));
  const trust = new Trust([toBase64url(root)]);
  // A statement of an unknown kind is skipped: the old root's part alone is one.
  await trust.learn(concat(framed(bytes(v.root_successor)), list), NOW);
  same(trust.statements, list, "the statements that count");
  const accepted = (at: number) => [root, next].map((key) => trust.accepts(key, at));
  same(accepted(NOW), [true, true], "both roots");
  same(accepted(NOW + OVERLAP - 1), [true, true], "both roots at the end of the overlap");
  same(accepted(NOW + OVERLAP), [false, true], "the new root alone");
  same(
    [online, next].map((key) => trust.revokes(key)),
    [true, false],
    "the revoked key",
  );
  same(toHex(await trust.federation), v.federation_id, "the id of the federation");
  // By the new root and the id, once the chain to it is known.
  const later = new Trust([toBase64url(next)], v.federation_id);
  same(later.accepts(root, NOW), false, "an unknown old root");
  await later.learn(list, NOW);
  same(later.accepts(root, NOW), true, "the founding root");
  // Each signature of a succession counts: here that of the new root, and that of the old one in it.
  for (const at of [(parts[0] as Uint8Array).length - 1, 100]) {
    const damaged = bytes(v.root_succession);
    damaged[at] = (damaged[at] as number) ^ 1;
    const fresh = new Trust([toBase64url(root)]);
    await fresh.learn(framed(damaged), NOW);
    same(fresh.statements.length, 0, `a succession with a damaged byte ${at}`);
  }
}

/** A step of a case: what a side does or receives, and what follows. */
interface NegotiationStep {
  readonly input: {
    readonly renegotiate?: { readonly sdp: string };
    readonly answer?: { readonly round: number; readonly sdp: string };
    readonly receive?: unknown;
  };
  readonly outputs?: unknown;
  readonly error?: boolean;
  readonly round: number;
}

/** The value with its keys in order, as JSON. */
function ordered(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(ordered);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, inner]) => [key, ordered(inner)]));
}

/** An output as the vectors have it. */
function plainOutput(output: NegotiationOutput): unknown {
  const { type, ...fields } = output;
  if (output.type !== "send") return { [type]: fields };
  const { candidates, round, description } = output.message;
  return { send: JSON.parse(iceText({ candidates, round, description })) };
}

/** What a step comes to: its outputs, or that it is an error. */
function stepResult(side: Negotiation, { renegotiate, answer, receive }: NegotiationStep["input"]): unknown {
  try {
    if (renegotiate !== undefined) return side.renegotiate(renegotiate.sdp, 0).map(plainOutput);
    if (answer !== undefined) return side.answer(answer.round, answer.sdp).map(plainOutput);
  } catch (error) {
    if (error instanceof NegotiationError) return "error";
    throw error;
  }
  const ice = readIce(JSON.stringify(receive));
  if (ice === undefined) throw new Error("not candidates");
  return side.receive(ice, 0).map(plainOutput);
}

function negotiation(): void {
  for (const { received, read } of negotiationVectors.media) {
    const ice = readIce(JSON.stringify({ candidates: [], media: received }));
    same(ordered(ice?.media ?? null), ordered(read), `media ${JSON.stringify(received)}`);
  }
  for (const { name, role, steps } of negotiationVectors.cases) {
    const side = new Negotiation(role === "callee");
    for (const [at, { input, outputs, error, round }] of (steps as NegotiationStep[]).entries()) {
      const what = `${name} (${role}), step ${at + 1}`;
      same(ordered(stepResult(side, input)), error ? "error" : ordered(outputs), what);
      same(side.round, round, `${what}: the round`);
    }
  }
}

/** All vectors. */
export const VECTOR_CHECKS: readonly Check[] = [
  ["CPace has the values of the draft", cpace],
  ["CPace refuses invalid points", cpaceInvalidPoints],
  ["a pairing has the values of the vectors", pairing],
  ["inboxes, addresses and signatures are those of the vectors", inboxes],
  ["messages open and are sealed again byte for byte", sealing],
  ["the rounds of a call are those of the vectors", negotiation],
  ["statements are decoded, verified and signed again", statements],
  ["statements of roots are decoded and followed", rootStatements],
];

/** Runs all checks and returns what is wrong, for a page. */
export async function failedVectors(): Promise<string[]> {
  const failures: string[] = [];
  for (const [name, run] of VECTOR_CHECKS) {
    try {
      await run();
    } catch (error) {
      failures.push(`${name}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  return failures;
}
