//! `chappe listen`: waits for calls, and answers each of them.

use std::{collections::HashMap, net::IpAddr, time::Instant};

use anyhow::Result;
use chappe_client::{CallStatus, Event, call::EndReason};
use clap::Args;
use serde::Serialize;

use crate::{
    call_client::CallClient, call_outcome::CallLine, media_call, network::ProfileArgs, output::Output,
    signals::Signals, timeline::Timeline,
};

#[derive(Args, Debug)]
pub(crate) struct ListenArgs {
    #[command(flatten)]
    profile: ProfileArgs,

    /// Stop after the first call, or the one that replaces it; exit status 1 if it failed
    #[arg(long)]
    once: bool,

    /// Address for media [default: local address of the connection to the node]
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
    let mut signals = Signals::for_foreground()?;
    let (profile, builder) = args.profile.builder()?;
    let timeline = Timeline::new(output, Instant::now(), HashMap::new());
    let mut client = tokio::select! {
        biased;
        () = signals.stop() => return Ok(()),
        client = CallClient::connect("you", builder, timeline) => client?,
    };
    let ready = Ready {
        event: "ready",
        node: client.client().node().map(|node| node.to_string()),
        contacts: profile.contacts().len(),
    };
    let contacts = if ready.contacts == 1 { "contact" } else { "contacts" };
    output.print(&format!("waiting for calls of {} {contacts}; stop with Ctrl-C", ready.contacts), &ready);
    client.timeline().print_heading();
    let result = tokio::select! {
        biased;
        () = signals.stop() => Ok(()),
        result = take_calls(args, &mut client, output) => result,
    };
    client.shutdown().await;
    result
}

async fn take_calls(args: &ListenArgs, client: &mut CallClient, output: Output) -> Result<()> {
    while let Some(event) = client.next_event().await {
        let (call, offer) = match event {
            Event::IncomingCall { call, name, offer, .. } => {
                client.timeline().add_step_now(&[&name, "you"], "calls");
                (call, offer)
            }
            Event::CallRejoined { call, offer, .. } => {
                client.timeline().add_step_now(&["peer", "you"], "continues in a new call");
                (call, offer)
            }
            _ => continue,
        };
        let ip = match args.media_ip {
            Some(ip) => Ok(ip),
            None => client.local_ip().await,
        };
        let answered = match ip {
            Ok(ip) => media_call::answer_call(client, call.clone(), &offer, ip).await,
            Err(error) => {
                // A failed call must not prevent others.
                let _ = call.decline().await;
                Err(error)
            }
        };
        client.timeline().flush();
        CallLine::from_result(&answered).print(output);
        let is_replaced = call.status() == CallStatus::Ended(EndReason::Rejoined);
        if args.once && !is_replaced {
            return answered.map(drop);
        }
    }
    Ok(())
}
