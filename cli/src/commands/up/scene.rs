//! The call that `up` makes: two people meet through the federation, pair by a code, and talk.

use std::{net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use chappe_client::{Client, Event, profile::Profile};
use chappe_common::keys::{NodeId, PublicKey};
use tokio::time::timeout;

use crate::{
    party::Party,
    talk::{self, Outcome},
    timeline::Timeline,
};

/// How long any one step may take. Each has its own, shorter deadlines; this one is against what nobody thought of.
const STEP: Duration = Duration::from_secs(45);
/// How long the two talk.
const SECONDS: u64 = 2;

/// Plays it, and says what came of the call, as both sides saw it.
pub(super) async fn play(dir: &Path, registry: &str, root: PublicKey, timeline: &Timeline) -> Result<Outcome> {
    let connect = |name: &'static str, avoid: Vec<NodeId>| {
        let folder = dir.join(name);
        async move {
            let profile = Profile::open_or_create(folder, name)?;
            let builder = Client::builder(profile).registry(registry, [root]).avoid(avoid);
            Party::connect(name, builder, timeline.clone()).await
        }
    };
    let mut alice = step("alice connects", connect("alice", Vec::new())).await?;
    let alices_node = alice.client().node();
    let mut bob = step("bob connects to another node", connect("bob", alices_node.into_iter().collect())).await?;

    let contact = step("alice and bob pair", pair(&alice, &bob)).await?;
    step("bob attaches the inbox for alice", reachable(&mut bob)).await?;
    let placed = talk::place(&mut alice, contact, Ipv4Addr::LOCALHOST.into(), SECONDS);
    let taken = take_call(&mut bob);
    let (caller, callee) = step("alice calls bob", async { tokio::try_join!(placed, taken) }).await?;
    tokio::join!(alice.shutdown(), bob.shutdown());
    if caller.heard.min(callee.heard) < SECONDS * crate::media::FRAMES_PER_SECOND {
        bail!("alice calls bob: only {} and {} packets of sound were heard", caller.heard, callee.heard);
    }
    Ok(Outcome::of_both(&caller, &callee))
}

async fn pair(alice: &Party, bob: &Party) -> Result<chappe_client::contact::ContactId> {
    // In a folder that was kept they know each other from the last time, and pair anew.
    for party in [alice, bob] {
        for contact in party.client().contacts().await? {
            party.client().remove_contact(contact.id()).await?;
        }
    }
    let timeline = alice.timeline();
    let shown = bob.client().show_code().await?;
    let code = shown.code();
    let text = format!("shows the code {code}; only {} reaches the node", &code[..6]);
    timeline.now(&["bob", &timeline.node(shown.node())], &text);
    timeline.now(&["alice"], "types the code in");
    let code = code.parse().context("the code that bob shows")?;
    let (at_bob, at_alice) = tokio::try_join!(async { Ok::<_, anyhow::Error>(shown.paired().await?) }, async {
        Ok(alice.client().pair(&code).await?)
    })?;
    if at_bob.words != at_alice.words {
        bail!("the two see different words");
    }
    timeline.now(&["alice", "bob"], &format!("paired; both see the words: {}", at_alice.words.join(" ")));
    Ok(at_alice.contact.id())
}

/// Until the new contact can call.
async fn reachable(bob: &mut Party) -> Result<()> {
    while let Some(event) = bob.next_event().await {
        if let Event::Reachable { .. } = event {
            let text = "can be called: the inbox for alice is attached, a random time after the pairing";
            bob.timeline().now(&["bob"], text);
            return Ok(());
        }
    }
    Err(anyhow!("the client has stopped"))
}

async fn take_call(bob: &mut Party) -> Result<Outcome> {
    while let Some(event) = bob.next_event().await {
        if let Event::IncomingCall { call, name, offer, .. } = event {
            bob.timeline().now(&["bob"], &format!("rings: {} calls; bob takes the call", *name));
            return talk::answer(bob, call, &offer, Ipv4Addr::LOCALHOST.into()).await;
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
