//! `chappe call`: calls a contact, sends it a tone, listens to the other's, and hangs up.

use std::{collections::HashMap, net::IpAddr, time::Instant};

use anyhow::{Result, anyhow, bail};
use clap::Args;

use crate::{
    network::ProfileArgs,
    output::Output,
    party::Party,
    signals::Signals,
    talk::{self, CallLine},
    timeline::Timeline,
};

/// Who calls whom.
#[derive(Args, Debug)]
pub(crate) struct CallArgs {
    #[command(flatten)]
    profile: ProfileArgs,

    /// The contact's name, as `pair` printed it
    contact: String,

    /// How many seconds of sound to wait for before hanging up
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// Address for media [default: the one from which the node is reached]
    #[arg(long, value_name = "ADDRESS")]
    media_ip: Option<IpAddr>,
}

pub(crate) async fn run(args: &CallArgs, output: Output) -> Result<()> {
    let mut signals = Signals::listen()?;
    let (profile, builder) = args.profile.builder()?;
    let contact = profile.contact_named(&args.contact).map(chappe_client::contact::Contact::id).ok_or_else(|| {
        let names: Vec<&str> = profile.contacts().iter().map(chappe_client::contact::Contact::name).collect();
        let known = if names.is_empty() { "nobody, so pair first".to_owned() } else { names.join(", ") };
        anyhow!("no contact is called `{}`; the profile knows {known}", args.contact)
    })?;
    let timeline = Timeline::new(output, Instant::now(), HashMap::new());
    timeline.head();
    let mut party = tokio::select! {
        biased;
        () = signals.stop() => bail!("stopped before a node was found"),
        party = Party::connect("you", builder, timeline.clone()) => party?,
    };
    let placed = tokio::select! {
        biased;
        () = signals.stop() => None,
        placed = async {
            let ip = match args.media_ip {
                Some(ip) => ip,
                None => party.local_ip().await?,
            };
            talk::place(&mut party, contact, ip, args.seconds).await
        } => Some(placed),
    };
    party.shutdown().await;
    timeline.flush();
    let Some(placed) = placed else { bail!("stopped in the middle of the call") };
    CallLine::of(&placed).print(output);
    placed.map(drop)
}
