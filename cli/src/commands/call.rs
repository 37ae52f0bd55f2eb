//! `chappe call`: calls a contact, sends a tone, waits for the other tone, and hangs up.

use std::{collections::HashMap, net::IpAddr, time::Instant};

use anyhow::{Result, anyhow, bail};
use clap::Args;

use crate::{
    call_client::CallClient, call_outcome::CallLine, media_call, network::ProfileArgs, output::Output,
    signals::Signals, timeline::Timeline,
};

#[derive(Args, Debug)]
pub(crate) struct CallArgs {
    #[command(flatten)]
    profile: ProfileArgs,

    /// The contact's name as printed by `pair`
    contact: String,

    /// Seconds of received sound after which to hang up
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// Address for media [default: local address of the connection to the node]
    #[arg(long, value_name = "ADDRESS")]
    media_ip: Option<IpAddr>,
}

pub(crate) async fn run(args: &CallArgs, output: Output) -> Result<()> {
    let mut signals = Signals::for_foreground()?;
    let (profile, builder) = args.profile.builder()?;
    let contact = profile.contact_named(&args.contact).map(chappe_client::contact::Contact::id).ok_or_else(|| {
        let names: Vec<&str> = profile.contacts().iter().map(chappe_client::contact::Contact::name).collect();
        let known = if names.is_empty() { "nobody; pair first".to_owned() } else { names.join(", ") };
        anyhow!("no contact is called `{}`; the profile knows {known}", args.contact)
    })?;
    let timeline = Timeline::new(output, Instant::now(), HashMap::new());
    timeline.print_heading();
    let mut client = tokio::select! {
        biased;
        () = signals.stop() => bail!("stopped before a node was found"),
        client = CallClient::connect("you", builder, timeline.clone()) => client?,
    };
    let placed = tokio::select! {
        biased;
        () = signals.stop() => None,
        placed = async {
            let ip = match args.media_ip {
                Some(ip) => ip,
                None => client.local_ip().await?,
            };
            media_call::place_call(&mut client, contact, ip, args.seconds).await
        } => Some(placed),
    };
    client.shutdown().await;
    timeline.flush();
    let Some(placed) = placed else { bail!("stopped during the call") };
    CallLine::from_result(&placed).print(output);
    placed.map(drop)
}
