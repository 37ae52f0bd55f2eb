//! Everything that strangers sign or write, changed at random: notes inside their signature and outside, lists, and texts.

use std::{fmt::Debug, str};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use chappe_common::{
    admission::{SignedTicket, Ticket},
    beacon::BeaconNote,
    code::PairingCode,
    directory::{Delegation, Directory, DirectoryBundle},
    federation::FederationId,
    keys::{NodeId, PublicKey, SIGNATURE_LEN, SecretKey},
    lease::{Inbox, Lease},
    list_request::ListRequest,
    place::NodePlace,
    record::{NodeLeave, NodeRecord},
    removal::NodeRemoval,
    shard::{Shard, ShardBundle},
    signed::{DecodeError, Signable, Signed},
    special,
    time::UnixTime,
};
use chappe_mutations::run;
use serde_json::Value;

const VECTORS: &str = include_str!("../../docs/protocol/vectors/signed.json");
const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

fn vector(name: &str) -> String {
    let vectors: Value = serde_json::from_str(VECTORS).expect("JSON");
    vectors[name].as_str().expect("a text").to_owned()
}

fn bytes(name: &str) -> Bytes {
    hex::decode(vector(name)).expect("hexadecimal").into()
}

/// The keys of the vectors.
fn root() -> SecretKey {
    SecretKey::from_bytes(&[1; 32])
}

fn node() -> SecretKey {
    SecretKey::from_bytes(&[2; 32])
}

fn online() -> SecretKey {
    SecretKey::from_bytes(&[3; 32])
}

fn list_of_directory() -> Bytes {
    DirectoryBundle::list_of(&bytes("directory")).expect("a list")
}

/// Inside the signature: whoever has the key may sign anything. What is taken can be written again, and reads the same.
fn inside<T: Signable + Clone + PartialEq + Debug>(name: &str, note: &Bytes, key: &SecretKey, look: impl Fn(&T)) {
    let body = &note[..note.len() - SIGNATURE_LEN];
    run(name, &[body], |body| {
        // Shape alone first: signing every input would take most of the time.
        if Signed::<T>::decode([body, &[0; SIGNATURE_LEN]].concat()) != Err(DecodeError::Signature) {
            return false;
        }
        let context = [b"chappe/", T::KIND.as_bytes(), b"/v1\0"].concat();
        let signature = key.sign(&[&context, body].concat());
        // One that names another signer is still none.
        let Ok(note) = Signed::<T>::decode([body, &signature].concat()) else { return false };
        look(&note);
        let again = Signed::sign(T::clone(&note), key).expect("what was read can be written");
        assert_eq!(Signed::<T>::decode(again.as_bytes().clone()), Ok(again.clone()));
        assert_eq!(*again, *note);
        true
    });
}

/// Outside: nobody without the key changes anything.
fn outside(name: &str, valid: &[u8], reads: impl Fn(&[u8]) -> bool) {
    run(name, &[valid], |bytes| {
        let is_read = reads(bytes);
        assert!(!is_read || bytes == valid, "a changed note is taken");
        is_read
    });
}

fn outside_note<T: Signable>(name: &str) {
    outside(name, &bytes(name), |bytes| Signed::<T>::decode(bytes.to_vec()).is_ok());
}

#[test]
fn mutated_notes_are_refused_without_the_key() {
    outside_note::<NodeRecord>("node_record");
    outside_note::<NodeLeave>("node_leave");
    outside_note::<NodeRemoval>("node_removal");
    outside_note::<ListRequest>("list_request");
    outside_note::<Lease>("lease");
    outside_note::<Ticket>("ticket");
    outside_note::<BeaconNote>("beacon");
}

#[test]
fn mutated_records_read_as_they_are_written() {
    inside::<NodeRecord>("record", &bytes("node_record"), &node(), |record| {
        let _ = (record.check(record.federation, NOW), record.is_reserve());
    });
}

#[test]
fn mutated_leases_read_as_they_are_written() {
    let inbox = SecretKey::from_bytes(&[4; 32]);
    inside::<Lease>("lease", &bytes("lease"), &inbox, |_| {});
}

#[test]
fn mutated_notes_of_nodes_and_roots_read_as_they_are_written() {
    inside::<NodeLeave>("leave", &bytes("node_leave"), &node(), |_| {});
    inside::<NodeRemoval>("removal", &bytes("node_removal"), &root(), |_| {});
    inside::<Ticket>("ticket", &bytes("ticket"), &root(), |_| {});
    inside::<ListRequest>("list request", &bytes("list_request"), &node(), |request| {
        let _ = request.check(request.federation, &request.registry, NOW);
    });
}

#[test]
fn mutated_beacons_read_as_they_are_written() {
    inside::<BeaconNote>("beacon", &bytes("beacon"), &root(), |note| {
        let _ = (note.check(note.federation, &[root().public()], NOW), note.in_force(NOW));
    });
}

#[test]
fn mutated_delegations_read_as_they_are_written() {
    let bundle = bytes("directory");
    let len = bundle.len() - list_of_directory().len();
    inside::<Delegation>("delegation", &bundle.slice(2..len), &root(), |_| {});
}

#[test]
fn mutated_directories_read_as_they_are_written() {
    let (bundle, list) = (bytes("directory"), list_of_directory());
    let delegation = &bundle[..bundle.len() - list.len()];
    inside::<Directory>("directory", &list, &online(), |directory| {
        let list = Signed::sign(directory.clone(), &online()).expect("a list");
        let bytes = [delegation, list.as_bytes()].concat();
        // The records in it are as bad as their signatures.
        if let Ok(bundle) = DirectoryBundle::decode(bytes, &[root().public()], NOW) {
            assert!(bundle.records_old(NOW).count() <= directory.nodes.len());
        }
    });
}

#[test]
fn mutated_shards_read_as_they_are_written() {
    let list = ShardBundle::list_of(vector("shard_text").as_bytes()).expect("a list");
    inside::<Shard>("shard", &list, &online(), |shard| {
        assert!(shard.nodes.iter().all(|place| NodePlace::new(place.node(), &place.url()).is_ok()));
    });
}

#[test]
fn mutated_lists_are_refused_without_the_key() {
    let roots = [root().public()];
    outside("directory as a whole", &bytes("directory"), |bytes| {
        DirectoryBundle::decode(bytes.to_vec(), &roots, NOW).is_ok()
    });
    let shard = vector("shard_text");
    let reads = |text: &[u8]| matches!(ShardBundle::decode(text, &roots, NOW), Some(Ok(_)));
    outside("shard as a text", shard.as_bytes(), reads);
    let bytes = URL_SAFE_NO_PAD.decode(&shard["chappe1=".len()..]).expect("base64url");
    outside("shard as a whole", &bytes, |bytes| reads(format!("chappe1={}", URL_SAFE_NO_PAD.encode(bytes)).as_bytes()));
    outside("ticket as a text", vector("ticket_text").as_bytes(), |text| {
        str::from_utf8(text).is_ok_and(|text| text.parse::<SignedTicket>().is_ok())
    });
}

#[test]
fn mutated_names_read_as_they_are_written() {
    let [federation, node_id, server_id] = ["federation_id", "node_id", "server_id"].map(vector);
    let corpus = [federation.as_str(), &node_id, &server_id, "ABC234", "wss://relay.example:1", "ws://[2001:db8::1]:2"];
    run("name", &corpus, |text| {
        let Ok(text) = str::from_utf8(text) else { return false };
        let own = node().node_id();
        let place = NodePlace::new(own, text).map(|place| place.url());
        if let Ok(url) = &place {
            assert_eq!(NodePlace::new(own, url).map(|place| place.url()).as_ref(), Ok(url));
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
        place.is_ok() || read.iter().any(Option::is_some)
    });
}
