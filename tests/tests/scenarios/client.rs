//! The client library against a real federation: pairing, calling, and nodes that go away in the middle of it.

use std::time::{Duration, Instant};

use chappe_client::{
    Client, DisconnectReason, Event, PairError, StepKind, call::EndReason, contact::ContactId, pairing::PairingError,
    profile::Profile,
};
use chappe_common::{client::RelayKind, keys::NodeId};
use chappe_testkit::{
    PATIENCE,
    altered::Altered,
    federation::{Federation, no_limits},
    people::{Finds, Person, answer, call, end, friends, pair, paired, person, start},
};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

#[tokio::test(flavor = "multi_thread")]
async fn contacts_refer_their_nodes_and_a_client_without_other_sources_finds_one() {
    let federation = Federation::start(2, no_limits).await;
    let (mut ada, bob_id) = {
        let ((ada, bob_id), (mut bob, _)) = friends(&federation, (Finds::Only(0), Finds::Only(1))).await;
        let outgoing = call(&ada, bob_id).await;
        let (incoming, _) = bob.incoming().await;
        incoming.accept("the answer").await.expect("accepted");
        assert_eq!(answer(&outgoing).await.as_deref(), Ok("the answer"));
        bob.client.shutdown().await;
        (ada, bob_id)
    };
    let place = |person: &Person| {
        let profile = Profile::open_or_create(person.profile.path().join("profile"), "").expect("the profile");
        profile.contact(bob_id).expect("the contact").nodes().to_vec()
    };
    let stored = async {
        while place(&ada).is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, stored).await.expect("Bob's node is kept");
    let bobs = &federation.nodes[1];
    assert!(place(&ada).iter().any(|place| place.node() == bobs.id()));
    ada.client.shutdown().await;
    // Neither a registry nor a node is configured now.
    let profile = Profile::open_or_create(ada.profile.path().join("profile"), "").expect("the profile");
    let (client, events) =
        timeout(PATIENCE, Client::builder(profile).private().connect()).await.expect("in time").expect("a connection");
    (ada.client, ada.events) = (client, events);
    assert_eq!(ada.node(), bobs.id());
    ada.client.shutdown().await;
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_pair_and_call_on_one_node_and_across_two() {
    let federation = Federation::start(3, no_limits).await;
    for (at_ada, at_bob) in [(0, 0), (0, 1)] {
        let mut ada = person(&federation, "Ada", Finds::Only(at_ada)).await;
        let mut bob = person(&federation, "Bob", Finds::Only(at_bob)).await;
        let (paired_ada, paired_bob) = pair(&ada, &bob).await;
        assert_eq!(paired_ada.words, paired_bob.words);
        assert_eq!((paired_ada.contact.name(), paired_bob.contact.name()), ("Bob", "Ada"));

        let outgoing = call(&ada, paired_ada.contact.id()).await;
        let (incoming, offer) = bob.incoming().await;
        assert_eq!((offer.as_str(), incoming.contact()), ("the offer", paired_bob.contact.id()));
        // Before the answer too: the callee can begin to connect at once.
        outgoing.send_candidates(["a1", "a2"]).await.expect("sent");
        incoming.accept("the answer").await.expect("accepted");
        assert_eq!(answer(&outgoing).await.as_deref(), Ok("the answer"));
        incoming.send_candidates(["b1"]).await.expect("sent");
        assert_eq!(bob.candidates().await, ["a1", "a2"]);
        assert_eq!(ada.candidates().await, ["b1"]);
        outgoing.send_candidates(["a3"]).await.expect("sent");
        assert_eq!(bob.candidates().await, ["a3"], "after the answer, to the key of the call");
        outgoing.media_up().await.expect("answered");
        incoming.media_up().await.expect("answered");
        incoming.hang_up().await.expect("a call to hang up");
        assert_eq!((end(&incoming).await, end(&outgoing).await), (EndReason::HungUp, EndReason::PeerHungUp));
        assert!(outgoing.hang_up().await.is_err(), "it is over");

        // And in the other direction.
        let outgoing = call(&bob, paired_bob.contact.id()).await;
        let (incoming, _) = ada.incoming().await;
        incoming.decline().await.expect("it rings");
        assert_eq!(end(&outgoing).await, EndReason::Declined);
        ada.client.shutdown().await;
        bob.client.shutdown().await;
    }
    federation.shutdown().await;
}

// On one thread, so that both offers of the same round are made before either arrives.
#[tokio::test(flavor = "current_thread")]
async fn a_call_is_renegotiated_by_either_side_and_by_both_at_once() {
    let federation = Federation::start(2, no_limits).await;
    let ((mut ada, to_bob), (mut bob, _)) = friends(&federation, (Finds::Only(0), Finds::Only(1))).await;
    let outgoing = call(&ada, to_bob).await;
    let (incoming, _) = bob.incoming().await;
    assert!(outgoing.renegotiate("too early").await.is_err(), "not before the answer");
    incoming.accept("the answer").await.expect("accepted");
    answer(&outgoing).await.expect("answered");

    assert_eq!(outgoing.renegotiate("ada 1").await, Ok(1));
    assert!(outgoing.renegotiate("ada 1").await.is_err(), "one at a time");
    outgoing.send_candidates_of(1, ["a1"]).await.expect("sent");
    assert_eq!(bob.renegotiation().await, (1, "ada 1".to_owned(), false));
    assert_eq!(bob.candidates().await, ["a1"]);
    incoming.answer_renegotiation(1, "bob 1").await.expect("it is asked");
    assert!(incoming.answer_renegotiation(1, "bob 1").await.is_err(), "once");
    assert_eq!(ada.renegotiated().await, (1, "bob 1".to_owned()));

    assert_eq!(incoming.renegotiate("bob 2").await, Ok(2));
    assert_eq!(ada.renegotiation().await, (2, "bob 2".to_owned(), false));
    outgoing.answer_renegotiation(2, "ada 2").await.expect("it is asked");
    assert_eq!(bob.renegotiated().await, (2, "ada 2".to_owned()));

    // Both at once: the callee rolls back.
    let (from_ada, from_bob) = tokio::join!(outgoing.renegotiate("ada 3"), incoming.renegotiate("bob 3"));
    assert_eq!((from_ada, from_bob), (Ok(3), Ok(3)));
    assert_eq!(bob.renegotiation().await, (3, "ada 3".to_owned(), true));
    incoming.answer_renegotiation(3, "bob 3").await.expect("it is asked");
    assert_eq!(ada.renegotiated().await, (3, "bob 3".to_owned()));
    outgoing.hang_up().await.expect("a call to hang up");
    assert!(outgoing.renegotiate("too late").await.is_err());
    drop((ada, bob));
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_lost_its_call_rejoins_without_ringing_while_the_other_side_has_it() {
    let federation = Federation::start(2, no_limits).await;
    let ((ada, to_bob), (mut bob, _)) = friends(&federation, (Finds::Only(0), Finds::Only(1))).await;
    let lost = call(&ada, to_bob).await;
    let (incoming, _) = bob.incoming().await;
    incoming.accept("the answer").await.expect("accepted");
    answer(&lost).await.expect("answered");
    incoming.media_up().await.expect("answered");
    let Person { client, profile, .. } = ada;
    // Without a farewell, as if the page was reloaded.
    drop(client);
    incoming.media_down().await.expect("answered");

    let ada = start(&federation, profile, "Ada", Finds::Only(0)).await;
    let again = ada.client.rejoin(to_bob, lost.id(), "another offer").await.expect("placed");
    assert_eq!(end(&incoming).await, EndReason::Rejoined);
    let (rejoined, old, offer) = bob
        .wait("the new call", |event| match event {
            Event::CallRejoined { call, old, offer, .. } => Some((call, old, offer.into_inner())),
            Event::IncomingCall { .. } => panic!("it rings"),
            _ => None,
        })
        .await;
    assert_eq!((rejoined.id(), old, offer.as_str()), (again.id(), lost.id(), "another offer"));
    rejoined.accept("another answer").await.expect("accepted");
    assert_eq!(answer(&again).await.as_deref(), Ok("another answer"));
    rejoined.hang_up().await.expect("a call to hang up");
    assert_eq!(end(&again).await, EndReason::PeerHungUp);

    // Now there is no such call.
    let late = ada.client.rejoin(to_bob, again.id(), "a late offer").await.expect("placed");
    assert_eq!(end(&late).await, EndReason::PeerHungUp);
    let rings = async {
        loop {
            let event = bob.events.next().await.expect("a running client");
            if matches!(event, Event::IncomingCall { .. } | Event::CallRejoined { .. }) {
                return event;
            }
        }
    };
    let rung = timeout(Duration::from_millis(300), rings).await;
    assert!(rung.is_err(), "{rung:?}");
    drop(bob);
    drop(ada);
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_names_every_hop() {
    let federation = Federation::start(3, no_limits).await;
    let ((mut ada, to_bob), (mut bob, _)) = friends(&federation, (Finds::Only(0), Finds::Only(1))).await;
    let (node_ada, node_bob) = (ada.node(), bob.node());
    let outgoing = call(&ada, to_bob).await;
    let (incoming, _) = bob.incoming().await;
    incoming.accept("the answer").await.expect("accepted");
    answer(&outgoing).await.expect("answered");
    let mut steps = Vec::new();
    ada.wait("the answer", |event| match event {
        Event::Step(step) if step.call == Some(outgoing.id()) => {
            assert_eq!(step.node, node_ada);
            steps.push(step.kind);
            (step.kind == StepKind::Received(RelayKind::CallAnswer)).then_some(())
        }
        _ => None,
    })
    .await;
    // The answer can overtake the confirmation of the offer.
    steps.retain(|kind| *kind != StepKind::Delivered(RelayKind::CallOffer));
    assert_eq!(
        steps,
        [
            StepKind::Resolving,
            StepKind::Resolved { peer_node: node_bob },
            StepKind::Sent(RelayKind::CallOffer),
            StepKind::Received(RelayKind::CallAnswer),
        ]
    );
    drop((ada, bob));
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_guess_burns_the_code() {
    let federation = Federation::start(2, no_limits).await;
    let mallory = person(&federation, "Mallory", Finds::Only(0)).await;
    let bob = person(&federation, "Bob", Finds::Only(1)).await;
    let shown = timeout(PATIENCE, bob.client.show_code()).await.expect("in time").expect("a code");
    let right = shown.code();
    let last = if right.ends_with('A') { "B" } else { "A" };
    let wrong = format!("{}{last}", &right[..right.len() - 1]).parse().expect("a code");
    let both = async { tokio::join!(mallory.client.pair(&wrong), shown.paired()) };
    let (guess, burnt) = timeout(PATIENCE, both).await.expect("in time");
    assert!(matches!(guess, Err(PairError::Burnt(PairingError::WrongSecret))), "{guess:?}");
    assert!(matches!(burnt, Err(PairError::Burnt(PairingError::WrongSecret))), "{burnt:?}");
    let again = timeout(PATIENCE, mallory.client.pair(&right.parse().expect("a code"))).await.expect("in time");
    assert!(matches!(again, Err(PairError::NoSuchCode)), "{again:?}");
    for person in [&mallory, &bob] {
        assert!(person.client.contacts().await.expect("running").is_empty(), "nobody was stored");
    }
    drop((bob, mallory));
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_a_call_is_busy_for_others() {
    let federation = Federation::start(2, no_limits).await;
    let ((ada, ada_to_bob), (mut bob, _)) = friends(&federation, (Finds::Only(0), Finds::Only(1))).await;
    let eve = person(&federation, "Eve", Finds::Only(0)).await;
    let (at_eve, _) = pair(&eve, &bob).await;
    let first = call(&ada, ada_to_bob).await;
    let (incoming, _) = bob.incoming().await;
    incoming.accept("the answer").await.expect("accepted");
    answer(&first).await.expect("answered");
    assert!(ada.client.call(ada_to_bob, "another").await.is_err(), "one call at a time");
    let second = call(&eve, at_eve.contact.id()).await;
    assert_eq!(end(&second).await, EndReason::Busy);
    first.hang_up().await.expect("the first call goes on");
    assert_eq!(end(&incoming).await, EndReason::PeerHungUp);
    drop((ada, bob, eve));
    federation.shutdown().await;
}

// On one thread both commands lie with their clients before either offer can leave. With more, an offer sometimes comes
// first, and then whoever calls is told that it rings already.
#[tokio::test(flavor = "current_thread")]
async fn both_calling_at_once_become_one_call() {
    let federation = Federation::start(2, no_limits).await;
    let ((mut ada, to_bob), (mut bob, to_ada)) = friends(&federation, (Finds::Only(0), Finds::Only(1))).await;
    let (from_ada, from_bob) = tokio::join!(call(&ada, to_bob), call(&bob, to_ada));
    let (winner, loser, callee) =
        if from_ada.id() < from_bob.id() { (from_ada, from_bob, &mut bob) } else { (from_bob, from_ada, &mut ada) };
    let (incoming, _) = callee.incoming().await;
    assert_eq!(incoming.id(), winner.id());
    assert_eq!(end(&loser).await, EndReason::Glare);
    incoming.accept("the answer").await.expect("accepted");
    assert_eq!(answer(&winner).await.as_deref(), Ok("the answer"));
    drop((ada, bob));
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offline_contact_is_reported_within_a_second_and_the_call_ends() {
    let federation = Federation::start(2, no_limits).await;
    let ((mut ada, to_bob), (bob, _)) = friends(&federation, (Finds::Only(0), Finds::Only(1))).await;
    bob.client.shutdown().await;
    let outgoing = call(&ada, to_bob).await;
    let placed = Instant::now();
    ada.wait("the news that nobody is there", |event| matches!(event, Event::NotReached { .. }).then_some(())).await;
    assert!(placed.elapsed() < Duration::from_secs(3), "{:?}", placed.elapsed());
    assert_eq!(end(&outgoing).await, EndReason::Offline);
    drop(ada);
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contacts_survive_a_restart_of_the_client() {
    let federation = Federation::start(2, no_limits).await;
    let ((ada, to_bob), (bob, _)) = friends(&federation, (Finds::Any, Finds::Any)).await;
    let Person { client, profile, .. } = bob;
    client.shutdown().await;
    let mut bob = start(&federation, profile, "ignored", Finds::Any).await;
    let outgoing = call(&ada, to_bob).await;
    let (incoming, _) = bob.incoming().await;
    incoming.accept("the answer").await.expect("accepted");
    assert_eq!(answer(&outgoing).await.as_deref(), Ok("the answer"));
    drop((ada, bob));
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callee_whose_app_restarts_while_it_rings_is_rung_again() {
    let federation = Federation::start(2, no_limits).await;
    let ((ada, to_bob), (mut bob, _)) = friends(&federation, (Finds::Only(0), Finds::Only(1))).await;
    let outgoing = call(&ada, to_bob).await;
    let (first, _) = bob.incoming().await;
    let Person { client, profile, .. } = bob;
    // Without a farewell, as if it had crashed.
    drop(client);
    let mut bob = start(&federation, profile, "Bob", Finds::Only(1)).await;
    let (incoming, _) = bob.incoming().await;
    assert_eq!(incoming.id(), first.id());
    incoming.accept("the answer").await.expect("accepted");
    assert_eq!(answer(&outgoing).await.as_deref(), Ok("the answer"));
    drop((ada, bob));
    federation.shutdown().await;
}

/// A node, and a way to it that changes its answers.
async fn altered<C: FnMut(&mut Value) + Send + 'static>(
    change: impl FnMut(usize) -> C + Send + 'static,
) -> (Federation, AbortOnDropHandle<()>) {
    let way = Altered::bind().await;
    let url = way.url();
    let federation = Federation::start(1, |config| {
        no_limits(config);
        config.client.urls = vec![url.clone()];
    })
    .await;
    let leading = way.lead_to(federation.nodes[0].addrs().client, change);
    (federation, leading)
}

/// Who has paired and attached, and whose first renewal, after five seconds, the node refuses with `code`.
async fn refused(code: &'static str) -> (Federation, AbortOnDropHandle<()>, (Person, ContactId), (Person, ContactId)) {
    let (said, mut refused) = tokio::sync::mpsc::channel(1);
    let (federation, leading) = altered(move |client| {
        let (said, mut attached) = (said.clone(), 0);
        move |answer: &mut Value| {
            if client > 0 || answer["type"] != "attached" {
                return;
            }
            attached += 1;
            answer["ttl"] = json!(1);
            if attached == 2 {
                *answer = json!({"type": "error", "code": code, "message": "not now", "id": answer["id"]});
                said.try_send(()).expect("the first refusal");
            }
        }
    })
    .await;
    let (ada, bob) = friends(&federation, (Finds::Only(0), Finds::Only(0))).await;
    timeout(PATIENCE, refused.recv()).await.expect("in time").expect("a refusal");
    (federation, leading, ada, bob)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_stays_after_a_temporary_refusal_of_a_renewal_and_leaves_after_a_permanent_one() {
    let (for_now, for_good) = tokio::join!(refused("congested"), refused("bad_message"));
    let (federation, leading, (mut ada, _), (bob, to_ada)) = for_now;
    let left = timeout(Duration::from_secs(2), ada.disconnected()).await;
    assert!(left.is_err(), "{left:?}");
    let ringing = call(&bob, to_ada).await;
    let (incoming, _) = ada.incoming().await;
    assert_eq!(incoming.id(), ringing.id(), "what was attached before is");
    drop((ada, bob, leading));
    federation.shutdown().await;

    let (federation, leading, (mut ada, _), (bob, _)) = for_good;
    let reason = ada.disconnected().await;
    assert!(matches!(reason, DisconnectReason::NotAttached), "{reason:?}");
    drop((ada, bob, leading));
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_leaves_at_once_where_its_only_contact_s_new_inboxes_are_refused_for_now() {
    let (federation, leading) = altered(|client| {
        move |answer: &mut Value| {
            if client == 0 && answer["type"] == "attached" {
                // Around midnight, the inboxes of two days are attached.
                answer["rejected"] = json!([0, 1].map(|index| json!({"index": index, "code": "rate_limited"})));
            }
        }
    })
    .await;
    let ((mut ada, _), (bob, to_ada)) = paired(&federation, (Finds::Only(0), Finds::Only(0))).await;
    let reason = ada.disconnected().await;
    assert!(matches!(reason, DisconnectReason::NotAttached), "{reason:?}");
    let ringing = call(&bob, to_ada).await;
    let (incoming, _) = ada.incoming().await;
    assert_eq!(incoming.id(), ringing.id());
    drop((ada, bob, leading));
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_ends_its_call() {
    let federation = Federation::start(2, no_limits).await;
    for answered in [true, false] {
        let ((ada, to_bob), (mut bob, _)) = friends(&federation, (Finds::Only(0), Finds::Only(1))).await;
        let outgoing = call(&ada, to_bob).await;
        let (incoming, _) = bob.incoming().await;
        if answered {
            incoming.accept("the answer").await.expect("accepted");
            answer(&outgoing).await.expect("answered");
        }
        timeout(PATIENCE, bob.client.shutdown()).await.expect("stopped in time");
        assert_eq!((end(&incoming).await, end(&outgoing).await), (EndReason::Shutdown, EndReason::PeerHungUp));
    }
    federation.shutdown().await;
}

/// Two friends at different nodes who find any node.
async fn apart(federation: &Federation) -> ((Person, ContactId), (Person, ContactId)) {
    let ((mut ada, to_bob), bob) = friends(federation, (Finds::Any, Finds::Any)).await;
    // Nodes are chosen at random.
    for _ in 0..40 {
        if ada.node() != bob.0.node() {
            return ((ada, to_bob), bob);
        }
        let Person { client, profile, .. } = ada;
        client.shutdown().await;
        ada = start(federation, profile, "Ada", Finds::Any).await;
    }
    panic!("the same node was chosen forty times");
}

/// Stops a node as if it were killed.
fn kill(federation: &mut Federation, id: NodeId) {
    let index = federation.nodes.iter().position(|node| node.id() == id).expect("a node of that id");
    drop(federation.nodes.remove(index));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_comes_about_although_the_caller_s_node_dies_before_the_answer() {
    let mut federation = Federation::start(3, no_limits).await;
    let ((mut ada, to_bob), (mut bob, _)) = apart(&federation).await;
    let outgoing = call(&ada, to_bob).await;
    let (incoming, _) = bob.incoming().await;
    let died = ada.node();
    kill(&mut federation, died);
    incoming.accept("the answer").await.expect("accepted");
    assert_eq!(answer(&outgoing).await.as_deref(), Ok("the answer"));
    assert_ne!(ada.connected().await, died, "on another node");
    outgoing.send_candidates(["a1"]).await.expect("sent");
    assert_eq!(bob.candidates().await, ["a1"]);
    drop((ada, bob));
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_comes_about_although_the_callee_s_node_dies_while_it_rings() {
    let mut federation = Federation::start(3, no_limits).await;
    let ((mut ada, to_bob), (mut bob, _)) = apart(&federation).await;
    let outgoing = call(&ada, to_bob).await;
    let (incoming, _) = bob.incoming().await;
    kill(&mut federation, bob.node());
    incoming.accept("the answer").await.expect("accepted");
    assert_eq!(answer(&outgoing).await.as_deref(), Ok("the answer"));
    outgoing.send_candidates(["a1"]).await.expect("sent");
    assert_eq!(bob.candidates().await, ["a1"]);
    incoming.send_candidates(["b1"]).await.expect("sent");
    assert_eq!(ada.candidates().await, ["b1"]);
    drop((ada, bob));
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_comes_about_although_the_callee_s_node_dies_before_the_offer() {
    let mut federation = Federation::start(3, no_limits).await;
    let ((ada, to_bob), (mut bob, _)) = apart(&federation).await;
    kill(&mut federation, bob.node());
    let outgoing = call(&ada, to_bob).await;
    let (incoming, _) = bob.incoming().await;
    incoming.accept("the answer").await.expect("accepted");
    assert_eq!(answer(&outgoing).await.as_deref(), Ok("the answer"));
    drop((ada, bob));
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_goes_away_is_left_for_another_before_it_is_gone() {
    let mut federation = Federation::start(3, |config| {
        no_limits(config);
        config.times.drain = Duration::from_secs(5);
    })
    .await;
    let ((ada, to_bob), (mut bob, _)) = apart(&federation).await;
    let old = bob.node();
    let index = federation.nodes.iter().position(|node| node.id() == old).expect("the node");
    let leaving = federation.nodes.remove(index);
    let mut seen = Vec::new();
    let (shut_down, ()) = tokio::join!(
        async { timeout(PATIENCE, leaving.shutdown()).await },
        bob.wait("the end of the old session", |event| match event {
            Event::Connected { node, .. } => {
                seen.push(node);
                None
            }
            Event::Disconnected { node, reason } => {
                assert_eq!((node, reason), (old, DisconnectReason::GoingAway));
                Some(())
            }
            _ => None,
        })
    );
    shut_down.expect("the node stops in time");
    assert_eq!(seen.len(), 1, "connected elsewhere before the old session ended");
    assert_ne!(seen[0], old);
    let outgoing = call(&ada, to_bob).await;
    let (incoming, _) = bob.incoming().await;
    incoming.accept("the answer").await.expect("accepted");
    assert_eq!(answer(&outgoing).await.as_deref(), Ok("the answer"));
    drop((ada, bob));
    federation.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_know_one_node_find_others_when_it_goes_away_and_leave_one_after_another() {
    const CLIENTS: usize = 12;
    let mut federation = Federation::start(3, |config| {
        no_limits(config);
        config.times.drain = Duration::from_secs(8);
    })
    .await;
    let leaving = federation.nodes.remove(0);
    let mut people = Vec::new();
    for _ in 0..CLIENTS {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let profile = Profile::open_or_create(folder.path().join("profile"), "").expect("a profile");
        let address = format!("{}#{}", leaving.client_url(), leaving.id()).parse().expect("an address");
        let builder = Client::builder(profile).node(address).discovery(|builder| builder.roots([federation.root()]));
        let (client, events) =
            timeout(PATIENCE, builder.private().connect()).await.expect("in time").expect("a connection");
        let mut person = Person { client, events, profile: folder };
        assert_eq!(person.connected().await, leaving.id());
        people.push(person);
    }
    let stopping = tokio::spawn(leaving.shutdown());
    let moved = people.iter_mut().map(|person| async {
        let node = person.connected().await;
        (node, Instant::now())
    });
    let moved = futures_util::future::join_all(moved).await;
    assert!(moved.iter().all(|(node, _)| federation.nodes.iter().any(|other| other.id() == *node)));
    let times = || moved.iter().map(|(_, at)| *at);
    let spread = times().max().expect("clients") - times().min().expect("clients");
    // They leave within four seconds, at random.
    assert!(spread > Duration::from_secs(1), "all left within {spread:?}");
    stopping.await.expect("the node stops");
    drop(people);
    federation.shutdown().await;
}
