//! What a paired contact, and somebody who has seen an inbox, can do to a person; the attacker plays it for real.

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chappe_client::{
    Client, DisconnectReason, Event, InboxRejection, StepKind,
    call::EndReason,
    contact::{Contact, ContactId, Day, Pairing, PairingSecret, Role},
    profile::Profile,
};
use chappe_common::{
    keys::{SecretKey, Signer},
    lease::{AccessToken, Address, Lease},
    signed::Signed,
    time::UnixTime,
};
use chappe_testkit::{
    PATIENCE,
    altered::Altered,
    federation::{Federation, no_limits},
    people::{Finds, answer, call, end, friends},
    raw::{Raw, now_ms},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

fn now() -> UnixTime {
    UnixTime::from(std::time::SystemTime::now())
}

/// Both sides of a pairing.
fn pairing(number: u8) -> (Pairing, Pairing) {
    let root =
        |side: u8| SecretKey::from_bytes(&[&[side; 16][..], &[number; 16]].concat().try_into().expect("32 bytes"));
    let (a, b) = (root(1), root(2));
    let secret = PairingSecret::from_bytes([number; 32]);
    let side = |role, own: &SecretKey, other: &SecretKey| {
        Pairing::new(role, secret.clone(), own.clone(), other.public()).expect("a usable key")
    };
    (side(Role::A, &a, &b), side(Role::B, &b, &a))
}

/// A profile with so many contacts, and what the last of them has of the pairing.
fn profile(contacts: u8) -> (TempDir, Profile, Pairing) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut profile = Profile::open_or_create(folder.path().join("profile"), "Ada").expect("a profile");
    for number in 1..=contacts {
        let contact = Contact::new(&format!("contact {number}"), [number; 32], pairing(number).0);
        profile.add_contact(contact, true).expect("a contact");
    }
    (folder, profile, pairing(contacts).1)
}

async fn connect(federation: &Federation, profile: &Profile) -> (Client, chappe_client::Events) {
    let node = &federation.nodes[0];
    let address = format!("{}#{}", node.client_url(), node.id()).parse().expect("an address");
    let connected = Client::builder(profile.clone()).node(address).private().connect();
    timeout(PATIENCE, connected).await.expect("in time").expect("a connection")
}

/// How many inboxes the node has attached, and which contacts it has rejected, up to then.
async fn attached(events: &mut chappe_client::Events) -> (usize, Vec<ContactId>) {
    let mut rejected = Vec::new();
    let attached = async {
        loop {
            match events.next().await.expect("a running client") {
                Event::InboxRejected { contact, reason } => {
                    assert_eq!(reason, InboxRejection::Invalid);
                    rejected.push(contact);
                }
                Event::Step(step) => {
                    if let StepKind::Attached { inboxes } = step.kind {
                        return inboxes;
                    }
                }
                _ => {}
            }
        }
    };
    (timeout(PATIENCE, attached).await.expect("attached in time"), rejected)
}

/// How many inboxes a contact has at this hour: two around midnight.
fn days() -> usize {
    let today = Day::of(now());
    let since = now().as_secs() - today.start().as_secs();
    let hour = 3600;
    match since {
        since if since < hour || since >= Day::SECONDS - hour => 2,
        since if since < 2 * hour || since >= Day::SECONDS - 2 * hour => 0,
        _ => 1,
    }
}

/// Signs with some key.
type Sign = Box<dyn Fn(&[u8]) -> [u8; 64]>;

/// The keys that a contact has: its own root key, and that blinded for these days.
fn keys_of(own: &Pairing) -> Vec<Sign> {
    let day = Day::of(now());
    let mut keys: Vec<Sign> = Vec::new();
    for day in [day.before(), day, day.after()] {
        let key = own.own_inbox(day).key;
        keys.push(Box::new(move |message| key.sign(message)));
    }
    let root = own.own_root().clone();
    keys.push(Box::new(move |message| root.sign(message)));
    keys
}

/// Mallory, the last of so many contacts, tries to attach the other side's inbox by all keys that it has.
async fn attack(federation: &Federation, own: &Pairing) {
    let victim = own.peer_address(now());
    let mut mallory = Raw::connect(federation.nodes[0].client_url()).await;
    for sign in keys_of(own) {
        let lease = Lease {
            inbox: victim.inbox,
            node: mallory.node(),
            session_key: [9; 32],
            access: victim.token.hash(),
            seq: now_ms() + 100_000,
            expires_at: now() + Duration::from_secs(600),
        };
        // The bytes of a signed lease, and of the proof, as the protocol has them.
        let body = postcard::to_allocvec(&lease).expect("a lease");
        let signature = sign(&[b"chappe/lease/v1\0", &body[..]].concat());
        let signed = [&body[..], &signature].concat();
        let proof = sign(&[b"chappe/attach/v1\0", &mallory.nonce()[..], &sha256(&signed)].concat());
        let item = json!({"lease": URL_SAFE_NO_PAD.encode(&signed), "proof": URL_SAFE_NO_PAD.encode(proof)});
        mallory.send(json!({"type": "attach", "id": "m", "inboxes": [item]})).await;
        let answer = mallory.expect("attached").await;
        assert_eq!(answer["rejected"], json!([{"index": 0, "code": "bad_lease"}]));
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(bytes).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contact_cannot_sign_for_the_other_side_or_keep_it_off_a_node() {
    let federation = Federation::start(1, no_limits).await;
    for contacts in [1, 33, 65, 200] {
        let (_folder, profile, mallory) = profile(contacts);
        attack(&federation, &mallory).await;
        let (client, mut events) = connect(&federation, &profile).await;
        let (attached, rejected) = attached(&mut events).await;
        println!("{contacts} contacts, one of them hostile: {attached} inboxes attached, {} rejected", rejected.len());
        let (least, most) = (usize::from(contacts), 2 * usize::from(contacts));
        assert!((least..=most).contains(&attached) && rejected.is_empty());
        assert!(days() == 0 || attached == days() * usize::from(contacts));
        // Also while it is connected: nothing of it is displaced.
        attack(&federation, &mallory).await;
        let mut caller = Raw::connect(federation.nodes[0].client_url()).await;
        let to = mallory.peer_address(now()).to_base64url();
        caller.send(json!({"type": "call_ice", "to": to, "payload": "x", "id": "c"})).await;
        caller.expect_exactly(json!({"type": "delivered", "id": "c"})).await;
        client.shutdown().await;
    }
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_stays_despite_rejected_inboxes_and_the_app_learns_their_contacts() {
    for contacts in [33, 65, 200_u8] {
        let way = Altered::bind().await;
        let url = way.url();
        let federation = Federation::start(1, |config| {
            no_limits(config);
            config.client.urls = vec![url.clone()];
        })
        .await;
        // The last of each message is rejected, whoever it belongs to.
        let leading = way.lead_to(federation.nodes[0].addrs().client, move |_| {
            move |answer: &mut Value| {
                if answer["type"] == "attached" {
                    answer["rejected"] = json!([{"index": 0, "code": "bad_lease"}]);
                }
            }
        });
        let (_folder, profile, _) = profile(contacts);
        let (client, mut events) = connect(&federation, &profile).await;
        let (attached, rejected) = attached(&mut events).await;
        println!("{contacts} contacts: {attached} inboxes attached, {} contacts named", rejected.len());
        assert!(!rejected.is_empty() && rejected.len() <= 5);
        assert!(rejected.iter().all(|contact| profile.contact(*contact).is_some()));
        assert!(attached + rejected.len() >= usize::from(contacts));
        let left = timeout(Duration::from_secs(2), async {
            loop {
                if let Event::Disconnected { reason, .. } = events.next().await.expect("a running client") {
                    return reason;
                }
            }
        });
        assert!(left.await.is_err());
        client.shutdown().await;
        drop(leading);
        federation.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_refuses_the_renewals_of_all_inboxes_one_after_another_is_left() {
    let way = Altered::bind().await;
    let url = way.url();
    let federation = Federation::start(1, |config| {
        no_limits(config);
        config.client.urls = vec![url.clone()];
    })
    .await;
    // The first answer attaches all. Renewals follow after 2.5 to 5 s, in several messages.
    let leading = way.lead_to(federation.nodes[0].addrs().client, |_| {
        let mut renewed = false;
        move |answer: &mut Value| {
            if answer["type"] != "attached" {
                return;
            }
            if renewed {
                let refused: Vec<_> = (0..96).map(|index| json!({"index": index, "code": "internal"})).collect();
                answer["rejected"] = json!(refused);
            }
            (answer["ttl"], renewed) = (json!(1), true);
        }
    });
    let (_folder, profile, _) = profile(30);
    let (client, mut events) = connect(&federation, &profile).await;
    let (inboxes, _) = attached(&mut events).await;
    assert!(inboxes >= 30);
    let left = async {
        loop {
            if let Event::Disconnected { reason, .. } = events.next().await.expect("a running client") {
                return reason;
            }
        }
    };
    let reason = timeout(PATIENCE, left).await.expect("the client leaves");
    assert!(matches!(reason, DisconnectReason::NotAttached), "{reason:?}");
    client.shutdown().await;
    drop(leading);
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inbox_without_its_access_token_reveals_nothing() {
    let federation = Federation::start(3, no_limits).await;
    let (_folder, profile, contact) = profile(1);
    let (client, mut events) = connect(&federation, &profile).await;
    attached(&mut events).await;
    let address = contact.peer_address(now());
    let stranger = Address { token: AccessToken::from_bytes([0; 16]), ..address };
    for node in &federation.nodes {
        let mut raw = Raw::connect(node.client_url()).await;
        let lookup = |address: &Address| json!({"type": "resolve", "id": "r", "address": address.to_base64url()});
        let message = |kind: &str, address: &Address| json!({"type": kind, "to": address.to_base64url(), "payload": "x", "id": "m"});
        let nobody = |id: &str| {
            let message = "Nobody is connected at this inbox";
            json!({"type": "error", "code": "peer_offline", "message": message, "id": id})
        };
        // Before and after the node has found it for somebody who may know.
        for _ in 0..2 {
            raw.send(lookup(&stranger)).await;
            raw.expect_exactly(nobody("r")).await;
            for kind in ["call_offer", "call_ice", "call_hangup"] {
                raw.send(message(kind, &stranger)).await;
                raw.expect_exactly(nobody("m")).await;
            }
            raw.send(lookup(&address)).await;
            raw.expect("resolved").await;
            raw.send(message("call_ice", &address)).await;
            raw.expect("delivered").await;
        }
    }
    client.shutdown().await;
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_key_belongs_to_one_inbox_and_changes_with_each_renewal() {
    let way = Altered::bind().await;
    let url = way.url();
    let federation = Federation::start(1, |config| {
        no_limits(config);
        config.client.urls = vec![url.clone()];
    })
    .await;
    let leading = way.lead_to(federation.nodes[0].addrs().client, move |_| {
        |answer: &mut Value| {
            if answer["type"] == "attached" {
                answer["ttl"] = json!(1);
            }
        }
    });
    let (_folder, profile, _) = profile(2);
    let (client, mut events) = connect(&federation, &profile).await;
    attached(&mut events).await;
    let mut raw = Raw::connect(federation.nodes[0].client_url()).await;
    let mut keys = std::collections::HashSet::new();
    // A renewal every five seconds or so.
    let renewed = async {
        while keys.len() < 6 {
            for number in [1, 2] {
                let address = pairing(number).1.peer_address(now()).to_base64url();
                raw.send(json!({"type": "resolve", "id": "r", "address": address})).await;
                let lease = raw.expect("resolved").await["lease"].as_str().expect("a text").to_owned();
                let lease =
                    Signed::<Lease>::decode(URL_SAFE_NO_PAD.decode(lease).expect("base64url")).expect("a lease");
                keys.insert((number, lease.session_key));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(PATIENCE * 2, renewed).await.expect("renewed in time");
    let different: std::collections::HashSet<_> = keys.iter().map(|(_, key)| key).collect();
    assert_eq!(different.len(), keys.len());
    client.shutdown().await;
    drop(leading);
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_contact_that_rings_constantly_gets_busy_and_a_blocked_contact_finds_no_lease() {
    let federation = Federation::start(2, no_limits).await;
    let ((ada, to_bob), (mut bob, to_ada)) = friends(&federation, (Finds::Only(0), Finds::Only(1))).await;
    let first = call(&ada, to_bob).await;
    let (incoming, _) = bob.incoming().await;
    incoming.decline().await.expect("it rings");
    assert_eq!(end(&first).await, EndReason::Declined);
    for _ in 0..3 {
        assert_eq!(end(&call(&ada, to_bob).await).await, EndReason::Busy);
    }
    // Bob can call meanwhile, and answers Ada's next ring as ever once he was the one who called.
    let mut ada = ada;
    let back = call(&bob, to_ada).await;
    let (incoming, _) = ada.incoming().await;
    incoming.accept("the answer").await.expect("it rings");
    assert_eq!(answer(&back).await.as_deref(), Ok("the answer"));
    back.hang_up().await.expect("a call");
    bob.client.block_contact(to_ada, true).await.expect("a contact");
    assert_eq!(end(&call(&ada, to_bob).await).await, EndReason::Offline);
    let contacts = bob.client.contacts().await.expect("a running client");
    assert!(contacts.len() == 1 && contacts[0].is_blocked());
    drop((ada, bob));
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocking_or_removing_a_contact_waits_for_the_node_and_ends_without_its_response() {
    let way = Altered::bind().await;
    let url = way.url();
    let federation = Federation::start(1, |config| {
        no_limits(config);
        config.client.urls = vec![url.clone()];
    })
    .await;
    let leading = way.lead_to(federation.nodes[0].addrs().client, move |_| {
        |answer: &mut Value| {
            if answer["type"] == "detached" {
                *answer = Value::Null;
            }
        }
    });
    let (_folder, profile, _) = profile(2);
    let (client, mut events) = connect(&federation, &profile).await;
    attached(&mut events).await;
    let (blocked, removed) = (ContactId::new([1; 32]), ContactId::new([2; 32]));
    let (blocked, removed) = {
        let changes = async { tokio::join!(client.block_contact(blocked, true), client.remove_contact(removed)) };
        let (mut changes, began) = (Box::pin(changes), Instant::now());
        match timeout(Duration::from_secs(1), &mut changes).await {
            // The machine was busy for as long as the client waits for a response.
            Ok(changed) if began.elapsed() >= Duration::from_secs(5) => changed,
            Ok(changed) => panic!("reported before the node had responded: {changed:?}"),
            Err(_) => timeout(PATIENCE, changes).await.expect("an end without the node's response"),
        }
    };
    blocked.expect("a contact");
    removed.expect("a contact");
    drop((client, leading));
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_reaches_a_session_that_is_still_attaching() {
    let way = Altered::bind().await;
    let url = way.url();
    let federation = Federation::start(1, |config| {
        no_limits(config);
        config.client.urls = vec![url.clone()];
    })
    .await;
    // The client never learns that its inboxes are attached.
    let leading = way.lead_to(federation.nodes[0].addrs().client, move |_| {
        |answer: &mut Value| {
            if answer["type"] == "attached" {
                *answer = Value::Null;
            }
        }
    });
    let (_folder, profile, theirs) = profile(2);
    let node = &federation.nodes[0];
    let address = format!("{url}#{}", node.id()).parse().expect("an address");
    let (client, _events) = Client::builder(profile).node(address).private().start().expect("a client");
    let mut raw = Raw::connect(node.client_url()).await;
    let mut answer = async || {
        let to = theirs.peer_address(now()).to_base64url();
        raw.send(json!({"type": "call_ice", "to": to, "payload": "x", "id": "m"})).await;
        raw.next().await
    };
    let attached = async {
        while answer().await["type"] != "delivered" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, attached).await.expect("attached in time");
    client.block_contact(ContactId::new([2; 32]), true).await.expect("a contact");
    assert_eq!(answer().await["code"], "peer_offline");
    client.shutdown().await;
    drop(leading);
    federation.shutdown().await;
}
