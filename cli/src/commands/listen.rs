//! `chappe listen`: waits for calls, and takes each of them.

use std::{collections::HashMap, net::IpAddr, time::Instant};

use anyhow::Result;
use chappe_client::Event;
use clap::Args;
use serde::Serialize;

use crate::{
    network::ProfileArgs,
    output::Output,
    party::Party,
    signals::Signals,
    talk::{self, CallLine},
    timeline::Timeline,
};

/// Who listens.
#[derive(Args, Debug)]
pub(crate) struct ListenArgs {
    #[command(flatten)]
    profile: ProfileArgs,

    /// Stop after the first call; exit status 1 if it failed
    #[arg(long)]
    once: bool,

    /// Address for media [default: the one from which the node is reached]
    #[arg(long, value_name = "ADDRESS")]
    media_ip: Option<IpAddr>,
}

#[derive(Serialize)]
struct Ready {
    event: &'static str,
    node: Option<String>,
    contacts: usize,
}

pub(crate) async fn run(args: &ListenArgs, output: Output) -> Result<()> {
    let mut signals = Signals::listen()?;
    let (profile, builder) = args.profile.builder()?;
    let timeline = Timeline::new(output, Instant::now(), HashMap::new());
    let mut party = tokio::select! {
        biased;
        () = signals.stop() => return Ok(()),
        party = Party::connect("you", builder, timeline) => party?,
    };
    let ready = Ready {
        event: "ready",
        node: party.client().node().map(|node| node.to_string()),
        contacts: profile.contacts().len(),
    };
    let contacts = if ready.contacts == 1 { "contact" } else { "contacts" };
    output.say(&format!("waiting for calls of {} {contacts}; Ctrl-C ends it", ready.contacts), &ready);
    party.timeline().head();
    let result = tokio::select! {
        biased;
        () = signals.stop() => Ok(()),
        result = take_calls(args, &mut party, output) => result,
    };
    party.shutdown().await;
    result
}

async fn take_calls(args: &ListenArgs, party: &mut Party, output: Output) -> Result<()> {
    while let Some(event) = party.next_event().await {
        let Event::IncomingCall { call, name, offer, .. } = event else { continue };
        party.timeline().now(&[&name, "you"], "calls");
        let ip = match args.media_ip {
            Some(ip) => Ok(ip),
            None => party.local_ip().await,
        };
        let answered = match ip {
            Ok(ip) => talk::answer(party, call, &offer, ip).await,
            Err(error) => {
                // One call that can't be taken is no reason to take no others.
                let _ = call.decline().await;
                Err(error)
            }
        };
        party.timeline().flush();
        CallLine::of(&answered).print(output);
        if args.once {
            return answered.map(drop);
        }
    }
    Ok(())
}
