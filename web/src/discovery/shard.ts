/** The part of a directory that fits a DNS record. Loaded with the queries of DNS. */
import type { Bytes } from "../core/bytes.js";
import { type Endpoint, isWellFormed, readEndpoint } from "../core/endpoint.js";
import { DecodeError } from "../core/postcard.js";
import { decodeList, type Kind, type ListTrust, type NodeList, readList, type Vouched } from "../core/statements.js";

/** A list of endpoints that fits a DNS record. */
export interface Shard extends NodeList {
  readonly nodes: readonly Endpoint[];
}

const MAX_SHARD_NODES = 14;

const SHARD: Kind<Shard> = {
  name: "shard",
  maxLength: 918,
  read: (reader) => {
    const shard = readList(reader, MAX_SHARD_NODES, readEndpoint);
    if (!shard.nodes.every(isWellFormed)) throw new DecodeError("an endpoint is out of bounds");
    return shard;
  },
  signer: (shard) => shard.keyId,
};

/** Decodes a shard with its delegation at `now`, in seconds since 1970. Rejects with {@link ListError}. */
export function decodeShard(bytes: Bytes, trust: ListTrust, now: number): Promise<Vouched<Shard>> {
  return decodeList(SHARD, bytes, trust, now);
}
