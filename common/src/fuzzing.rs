//! Checks for any input of a decoder of untrusted bytes, run by the tests and the fuzzer.
//!
//! Signed statements are checked inside and outside their signature. Inside: anyone with a key can sign anything, so a
//! value of the right shape must be readable and encode the same again. No signature is made for it, which would take
//! most of the time. Outside: nobody can change anything without the key, so only the statement of the vectors is
//! accepted.

use std::{fmt::Debug, str, sync::LazyLock};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;

use crate::{
    admission::{IssuerGrant, Ticket, TicketChain},
    beacon::Beacon,
    code::PairingCode,
    directory::{Delegation, Directory, DirectoryBundle},
    endpoint::NodeEndpoint,
    federation::FederationId,
    keys::{NodeId, PublicKey, SIGNATURE_LEN, SecretKey},
    lease::{Inbox, Lease},
    list_request::ListRequest,
    reachability::Reachability,
    record::{NodeLeave, NodeRecord},
    removal::NodeRemoval,
    revocation::KeyRevocation,
    root_statements::{ListOrigin, RootStatements},
    roots::Roots,
    shard::{Shard, ShardBundle},
    signed::{self, Signable, Signed},
    special,
    succession::{RootSuccession, RootSuccessor, SignedSuccession},
    time::UnixTime,
};

const VECTORS: &str = include_str!("../../docs/protocol/vectors/signed.json");
const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

/// The keys of the vectors.
static ROOT: LazyLock<SecretKey> = LazyLock::new(|| SecretKey::from_bytes(&[1; 32]));
static NODE: LazyLock<SecretKey> = LazyLock::new(|| SecretKey::from_bytes(&[2; 32]));
static ONLINE: LazyLock<SecretKey> = LazyLock::new(|| SecretKey::from_bytes(&[3; 32]));

/// The delegation in front of the vectors' directory, with its length.
static DELEGATION: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let bundle = bytes("directory");
    let list = DirectoryBundle::list_of(&bundle).expect("a list");
    bundle[..bundle.len() - list.len()].to_vec()
});

/// One of the vectors, read without a JSON parser, which is only a dev-dependency.
fn vector(name: &str) -> &'static str {
    let (_, rest) = VECTORS.split_once(&format!("\"{name}\": \"")).expect("a vector of that name");
    rest.split_once('"').expect("a text").0
}

fn bytes(name: &str) -> Bytes {
    hex::decode(vector(name)).expect("hexadecimal").into()
}

/// Inside the signature: a decoded value encodes and decodes to the same.
fn inside<T: Signable + PartialEq + Debug>(body: &[u8], look: impl Fn(&T)) -> bool {
    let with_room = |body: &[u8]| [body, &[0; SIGNATURE_LEN]].concat();
    let bytes = with_room(body);
    let Ok((value, ..)) = signed::parts::<T>(&bytes) else { return false };
    look(&value);
    let again = with_room(&signed::body(&value).expect("what was read can be written"));
    assert_eq!(signed::parts::<T>(&again).map(|(value, ..)| value), Ok(value));
    true
}

/// Outside the signature: only the signed bytes are accepted.
fn outside(input: &[u8], is_taken: bool, valid: impl FnOnce() -> Bytes) -> bool {
    assert!(!is_taken || input == valid(), "a changed statement is accepted");
    is_taken
}

fn outside_statement<T: Signable>(input: &[u8], name: &str) -> bool {
    outside(input, Signed::<T>::decode(input.to_vec()).is_ok(), || bytes(name))
}

/// A record with its signature.
pub const SIGNED_RECORD: (&str, fn(&[u8]) -> bool) =
    ("signed record", |bytes| outside_statement::<NodeRecord>(bytes, "node_record"));
/// A leave with its signature.
pub const SIGNED_LEAVE: (&str, fn(&[u8]) -> bool) =
    ("signed leave", |bytes| outside_statement::<NodeLeave>(bytes, "node_leave"));
/// A removal with its signature.
pub const SIGNED_REMOVAL: (&str, fn(&[u8]) -> bool) =
    ("signed removal", |bytes| outside_statement::<NodeRemoval>(bytes, "node_removal"));
/// A revocation with its signature.
pub const SIGNED_REVOCATION: (&str, fn(&[u8]) -> bool) =
    ("signed revocation", |bytes| outside_statement::<KeyRevocation>(bytes, "key_revocation"));
/// A list request with its signature.
pub const SIGNED_LIST_REQUEST: (&str, fn(&[u8]) -> bool) =
    ("signed list request", |bytes| outside_statement::<ListRequest>(bytes, "list_request"));
/// A statement of reachability with its signature.
pub const SIGNED_REACHABILITY: (&str, fn(&[u8]) -> bool) =
    ("signed reachability", |bytes| outside_statement::<Reachability>(bytes, "reachability"));
/// A lease with its signature.
pub const SIGNED_LEASE: (&str, fn(&[u8]) -> bool) =
    ("signed lease", |bytes| outside_statement::<Lease>(bytes, "lease"));
/// A ticket with its signature.
pub const SIGNED_TICKET: (&str, fn(&[u8]) -> bool) =
    ("signed ticket", |bytes| outside_statement::<Ticket>(bytes, "ticket"));
/// A grant with its signature.
pub const SIGNED_GRANT: (&str, fn(&[u8]) -> bool) =
    ("signed grant", |bytes| outside_statement::<IssuerGrant>(bytes, "admission_grant"));
/// A beacon with its signature.
pub const SIGNED_BEACON: (&str, fn(&[u8]) -> bool) =
    ("signed beacon", |bytes| outside_statement::<Beacon>(bytes, "beacon"));

/// A record.
pub const RECORD: (&str, fn(&[u8]) -> bool) = ("record", |body| {
    inside::<NodeRecord>(body, |record| {
        let _ = (record.check(record.federation, NOW), record.is_reserve());
    })
});
/// A leave.
pub const LEAVE: (&str, fn(&[u8]) -> bool) = ("leave", |body| inside::<NodeLeave>(body, |_| {}));
/// A removal.
pub const REMOVAL: (&str, fn(&[u8]) -> bool) = ("removal", |body| inside::<NodeRemoval>(body, |_| {}));
/// A revocation.
pub const REVOCATION: (&str, fn(&[u8]) -> bool) = ("revocation", |body| {
    inside::<KeyRevocation>(body, |value| {
        let _ = value.check(&[value.root].into(), NOW);
    })
});
/// What an old root signs about its successor.
pub const SUCCESSOR: (&str, fn(&[u8]) -> bool) = ("root successor", |body| inside::<RootSuccessor>(body, |_| {}));
/// A succession, as its new root signs it.
pub const SUCCESSION: (&str, fn(&[u8]) -> bool) = ("root succession", |body| inside::<RootSuccession>(body, |_| {}));
/// A succession with both signatures.
pub const SIGNED_SUCCESSION: (&str, fn(&[u8]) -> bool) = ("signed succession", |bytes| {
    let Ok(read) = SignedSuccession::decode(bytes.to_vec()) else { return false };
    assert_eq!(SignedSuccession::from_text(read.to_text().as_bytes()), Some(Ok(read.clone())));
    let mut roots = Roots::from([ROOT.public()]);
    let _ = roots.learn([&read]);
    assert!(roots.accepted(NOW).iter().all(|root| roots.knows(root)));
    true
});
/// A list of the roots' statements.
pub const ROOT_STATEMENTS: (&str, fn(&[u8]) -> bool) = ("list of root statements", |bytes| {
    let read = |bytes: Vec<u8>| {
        let mut all = RootStatements::from(Roots::from([ROOT.public()]));
        all.learn_list(bytes, ListOrigin::Peer(NOW)).map(|_| all)
    };
    let Ok(list) = read(bytes.to_vec()) else { return false };
    assert_eq!(read(list.encode()), Ok(list.clone()));
    list.all().next().is_some()
});
/// A list request.
pub const LIST_REQUEST: (&str, fn(&[u8]) -> bool) = ("list request", |body| {
    inside::<ListRequest>(body, |request| {
        let _ = request.check(request.federation, &request.registry, NOW);
    })
});
/// A statement of reachability.
pub const REACHABILITY: (&str, fn(&[u8]) -> bool) = ("reachability", |body| inside::<Reachability>(body, |_| {}));
/// A lease.
pub const LEASE: (&str, fn(&[u8]) -> bool) = ("lease", |body| inside::<Lease>(body, |_| {}));
/// A ticket.
pub const TICKET: (&str, fn(&[u8]) -> bool) = ("ticket", |body| inside::<Ticket>(body, |_| {}));
/// A grant.
pub const GRANT: (&str, fn(&[u8]) -> bool) = ("grant", |body| inside::<IssuerGrant>(body, |_| {}));
/// A beacon.
pub const BEACON: (&str, fn(&[u8]) -> bool) = ("beacon", |body| {
    inside::<Beacon>(body, |value| {
        let _ = (value.check(&[value.root].into(), NOW), value.in_force(NOW));
    })
});
/// A delegation.
pub const DELEGATION_NOTE: (&str, fn(&[u8]) -> bool) = ("delegation", |body| inside::<Delegation>(body, |_| {}));

/// A directory, and as a bundle what its online key would sign.
pub const DIRECTORY: (&str, fn(&[u8]) -> bool) = ("directory", |body| {
    inside::<Directory>(body, |directory| {
        let Ok(list) = Signed::sign(directory.clone(), &*ONLINE) else { return };
        let bytes = [&DELEGATION, &list.as_bytes()[..]].concat();
        // The records in it have their own signatures.
        if let Ok(bundle) = DirectoryBundle::decode(bytes, &[ROOT.public()].into(), NOW) {
            assert!(bundle.records_old(NOW).count() <= directory.nodes.len());
        }
    })
});
/// A shard.
pub const SHARD: (&str, fn(&[u8]) -> bool) = ("shard", |body| {
    inside::<Shard>(body, |shard| {
        assert!(shard.nodes.iter().all(|endpoint| NodeEndpoint::new(endpoint.node(), &endpoint.url()).is_ok()));
    })
});

/// A delegation and a directory with their signatures.
pub const BUNDLE: (&str, fn(&[u8]) -> bool) = ("directory as a whole", |input| {
    let bundle = DirectoryBundle::decode(input.to_vec(), &[ROOT.public()].into(), NOW);
    outside(input, bundle.is_ok(), || bytes("directory"))
});

fn reads_shard(text: &[u8]) -> bool {
    matches!(ShardBundle::decode(text, &[ROOT.public()].into(), NOW), Some(Ok(_)))
}

/// The bytes of the vectors' shard.
fn shard() -> Bytes {
    let text = vector("shard_text").strip_prefix("chappe1=").expect("a shard");
    URL_SAFE_NO_PAD.decode(text).expect("base64url").into()
}

/// A shard as in DNS.
pub const SHARD_TEXT: (&str, fn(&[u8]) -> bool) =
    ("shard as a text", |text| outside(text, reads_shard(text), || vector("shard_text").into()));
/// A delegation and a shard with their signatures.
pub const SHARD_BUNDLE: (&str, fn(&[u8]) -> bool) = ("shard as a whole", |bytes| {
    let text = format!("chappe1={}", URL_SAFE_NO_PAD.encode(bytes));
    outside(bytes, reads_shard(text.as_bytes()), shard)
});
/// A ticket as text.
pub const TICKET_TEXT: (&str, fn(&[u8]) -> bool) = ("ticket as a text", |text| {
    let is_taken = str::from_utf8(text).is_ok_and(|text| text.parse::<TicketChain>().is_ok());
    outside(text, is_taken, || vector("ticket_text").into())
});
/// A ticket with the grant to its signer: only the signed bytes are accepted.
pub const TICKET_CHAIN: (&str, fn(&[u8]) -> bool) = ("ticket with a grant", |chain| {
    let is_taken = chain.len() > Ticket::MAX_LEN && TicketChain::decode(chain).is_ok();
    outside(chain, is_taken, || bytes("ticket_by_grant"))
});

/// Ids, codes and URLs: accepted texts are encoded the same.
pub const NAME: (&str, fn(&[u8]) -> bool) = ("name", |text| {
    let Ok(text) = str::from_utf8(text) else { return false };
    let own = NODE.node_id();
    let endpoint = NodeEndpoint::new(own, text).map(|endpoint| endpoint.url());
    if let Ok(url) = &endpoint {
        assert_eq!(NodeEndpoint::new(own, url).map(|endpoint| endpoint.url()).as_ref(), Ok(url));
    }
    let _ = special::is_public_url(text);
    let read = [
        text.parse::<FederationId>().map(|id| id.to_string()).ok(),
        text.parse::<NodeId>().map(|id| id.to_string()).ok(),
        text.parse::<PublicKey>().map(|key| key.to_string()).ok(),
        Inbox::from_base64url(text).map(|inbox| inbox.key().to_base64url()).ok(),
        NodeId::from_server_id(text).map(|id| id.to_server_id()).ok(),
        text.parse::<PairingCode>().map(|code| code.as_str().to_owned()).ok(),
    ];
    let is_same = |read: &String| read == text || read.eq_ignore_ascii_case(text);
    assert!(read.iter().flatten().all(is_same), "{text:?} reads as {read:?}");
    endpoint.is_ok() || read.iter().any(Option::is_some)
});

#[cfg(test)]
mod tests {
    use chappe_mutations::run;

    use super::*;

    fn without_signature(value: &[u8]) -> Bytes {
        Bytes::copy_from_slice(&value[..value.len() - SIGNATURE_LEN])
    }

    fn body(name: &str) -> Bytes {
        without_signature(&bytes(name))
    }

    #[test]
    fn mutated_statements_are_refused_without_the_key() {
        run(SIGNED_RECORD, &[bytes("node_record")]);
        run(SIGNED_LEAVE, &[bytes("node_leave")]);
        run(SIGNED_REMOVAL, &[bytes("node_removal")]);
        run(SIGNED_REVOCATION, &[bytes("key_revocation")]);
        run(SIGNED_SUCCESSION, &[bytes("root_succession")]);
        run(SIGNED_LIST_REQUEST, &[bytes("list_request")]);
        run(SIGNED_REACHABILITY, &[bytes("reachability")]);
        run(SIGNED_LEASE, &[bytes("lease")]);
        run(SIGNED_TICKET, &[bytes("ticket")]);
        run(SIGNED_GRANT, &[bytes("admission_grant")]);
        run(SIGNED_BEACON, &[bytes("beacon")]);
    }

    #[test]
    fn mutated_records_read_as_they_are_written() {
        run(RECORD, &[body("node_record")]);
    }

    #[test]
    fn mutated_leases_read_as_they_are_written() {
        run(LEASE, &[body("lease")]);
    }

    #[test]
    fn mutated_statements_of_nodes_and_roots_read_as_they_are_written() {
        run(LEAVE, &[body("node_leave")]);
        run(REMOVAL, &[body("node_removal")]);
        run(REVOCATION, &[body("key_revocation")]);
        run(SUCCESSOR, &[body("root_successor")]);
        run(SUCCESSION, &[body("root_succession")]);
        let list = ["root_succession", "key_revocation"].map(|name| {
            let value = bytes(name);
            let len = u16::try_from(value.len()).expect("a short value").to_le_bytes();
            [&len[..], &value].concat()
        });
        run(ROOT_STATEMENTS, &[list.concat()]);
        run(TICKET, &[body("ticket")]);
        run(GRANT, &[body("admission_grant")]);
        run(LIST_REQUEST, &[body("list_request")]);
        run(REACHABILITY, &[body("reachability")]);
    }

    #[test]
    fn mutated_beacons_read_as_they_are_written() {
        run(BEACON, &[body("beacon")]);
    }

    #[test]
    fn mutated_delegations_read_as_they_are_written() {
        run(DELEGATION_NOTE, &[without_signature(&DELEGATION[2..])]);
    }

    #[test]
    fn mutated_directories_read_as_they_are_written() {
        let list = DirectoryBundle::list_of(&bytes("directory")).expect("a list");
        run(DIRECTORY, &[without_signature(&list)]);
    }

    #[test]
    fn mutated_shards_read_as_they_are_written() {
        let list = ShardBundle::list_of(vector("shard_text").as_bytes()).expect("a list");
        run(SHARD, &[without_signature(&list)]);
    }

    #[test]
    fn mutated_lists_are_refused_without_the_key() {
        run(BUNDLE, &[bytes("directory")]);
        run(SHARD_TEXT, &[vector("shard_text")]);
        run(SHARD_BUNDLE, &[shard()]);
        run(TICKET_TEXT, &[vector("ticket_text")]);
        run(TICKET_CHAIN, &[bytes("ticket_by_grant")]);
    }

    #[test]
    fn mutated_names_read_as_they_are_written() {
        let [federation, node_id, server_id] = ["federation_id", "node_id", "server_id"].map(vector);
        run(NAME, &[federation, node_id, server_id, "ABC234", "wss://relay.example:1", "ws://[2001:db8::1]:2"]);
    }
}
