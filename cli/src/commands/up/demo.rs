//! The demo of `up`: two people find nodes, pair by a code, and call.

use std::{net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use chappe_client::{Client, Event, profile::Profile};
use chappe_common::keys::{NodeId, PublicKey};
use tokio::time::timeout;

use crate::{call_client::CallClient, call_outcome::CallOutcome, media_call, timeline::Timeline};

/// Time limit of each step. The steps have shorter deadlines of their own; this one catches bugs.
const STEP: Duration = Duration::from_secs(45);
/// Seconds of sound in the demo call.
const SECONDS: u64 = 2;

/// Runs the demo. Returns the result of the call for both sides.
pub(super) async fn run(dir: &Path, registry: &str, root: PublicKey, timeline: &Timeline) -> Result<CallOutcome> {
    let connect = |name: &'static str, avoid: Vec<NodeId>| {
        let folder = dir.join(name);
        async move {
            let profile = Profile::open_or_create(folder, name)?;
            let builder = Client::builder(profile).registry(registry, [root]).avoid(avoid);
            CallClient::connect(name, builder, timeline.clone()).await
        }
    };
    let mut alice = step("alice connects", connect("alice", Vec::new())).await?;
    let alices_node = alice.client().node();
    let mut bob = step("bob connects to another node", connect("bob", alices_node.into_iter().collect())).await?;

    let contact = step("alice and bob pair", pair(&alice, &bob)).await?;
    step("bob attaches the inbox for alice", reachable(&mut bob)).await?;
    let placed = media_call::place_call(&mut alice, contact, Ipv4Addr::LOCALHOST.into(), SECONDS);
    let taken = take_call(&mut bob);
    let (caller, callee) = step("alice calls bob", async { tokio::try_join!(placed, taken) }).await?;
    tokio::join!(alice.shutdown(), bob.shutdown());
    if caller.heard.min(callee.heard) < SECONDS * crate::media::FRAMES_PER_SECOND {
        bail!("alice calls bob: only {} and {} packets of sound were received", caller.heard, callee.heard);
    }
    Ok(CallOutcome::combine(&caller, &callee))
}

async fn pair(alice: &CallClient, bob: &CallClient) -> Result<chappe_client::contact::ContactId> {
    // With a kept folder they still have the contact of the last run.
    for client in [alice, bob] {
        for contact in client.client().contacts().await? {
            client.client().remove_contact(contact.id()).await?;
        }
    }
    let timeline = alice.timeline();
    let shown = bob.client().show_code().await?;
    let code = shown.code();
    let text = format!("shows the code {code}; only {} reaches the node", &code[..6]);
    timeline.add_step_now(&["bob", &timeline.node_name(shown.node())], &text);
    timeline.add_step_now(&["alice"], "enters the code");
    let code = code.parse().context("the code that bob shows")?;
    let (at_bob, at_alice) = tokio::try_join!(async { Ok::<_, anyhow::Error>(shown.paired().await?) }, async {
        Ok(alice.client().pair(&code).await?)
    })?;
    if at_bob.words != at_alice.words {
        bail!("both sides see different words");
    }
    timeline.add_step_now(&["alice", "bob"], &format!("paired; both see the words: {}", at_alice.words.join(" ")));
    Ok(at_alice.contact.id())
}

/// Waits until the new contact can call.
async fn reachable(bob: &mut CallClient) -> Result<()> {
    while let Some(event) = bob.next_event().await {
        if let Event::Reachable { .. } = event {
            let text = "can be called: the inbox for alice is attached, a random time after the pairing";
            bob.timeline().add_step_now(&["bob"], text);
            return Ok(());
        }
    }
    Err(anyhow!("the client has stopped"))
}

async fn take_call(bob: &mut CallClient) -> Result<CallOutcome> {
    while let Some(event) = bob.next_event().await {
        if let Event::IncomingCall { call, name, offer, .. } = event {
            bob.timeline().add_step_now(&["bob"], &format!("rings: {} calls; bob answers", *name));
            return media_call::answer_call(bob, call, &offer, Ipv4Addr::LOCALHOST.into()).await;
        }
    }
    Err(anyhow!("the client has stopped"))
}

async fn step<T>(what: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(STEP, work).await {
        Ok(done) => done.context(what),
        Err(_) => bail!("{what}: not done within {} seconds", STEP.as_secs()),
    }
}
