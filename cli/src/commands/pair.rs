//! `chappe pair`: one side shows a code, the other types it in, and both compare the words.

use std::{collections::HashMap, time::Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use chappe_client::{Paired, phrase::Phrase};
use clap::Args;
use serde::Serialize;

use crate::{network::ProfileArgs, output::Output, party::Party, signals::Signals, timeline::Timeline};

/// Who pairs, and by which code.
#[derive(Args, Debug)]
pub(crate) struct PairArgs {
    #[command(flatten)]
    profile: ProfileArgs,

    /// The code that the other side shows; without it, this side shows one
    code: Option<String>,

    /// Forget this contact first, to pair with the same person anew
    #[arg(long, value_name = "CONTACT")]
    forget: Option<String>,
}

#[derive(Serialize)]
struct Shown<'a> {
    event: &'static str,
    code: &'a str,
}

#[derive(Serialize)]
struct Done<'a> {
    event: &'static str,
    contact: &'a str,
    words: &'a [&'a str],
}

pub(crate) async fn run(args: &PairArgs, output: Output) -> Result<()> {
    let mut signals = Signals::listen()?;
    let code: Option<Phrase> = args.code.as_deref().map(str::parse).transpose().context("CODE")?;
    let (profile, builder) = args.profile.builder()?;
    // What happens on the way is of no interest here.
    let quiet = Timeline::new(Output::silent(), Instant::now(), HashMap::new());
    let party = tokio::select! {
        biased;
        () = signals.stop() => bail!("stopped before a node was found"),
        party = Party::connect("you", builder, quiet) => party?,
    };
    if let Some(name) = &args.forget {
        let contact = profile.contact_named(name).ok_or_else(|| anyhow!("no contact is called `{name}`"))?;
        party.client().remove_contact(contact.id()).await?;
    }
    let paired = tokio::select! {
        biased;
        () = signals.stop() => None,
        paired = pair(&party, code, output) => Some(paired),
    };
    party.shutdown().await;
    let Some(paired) = paired else { bail!("stopped before the other side had paired") };
    let paired = paired?;
    let name = paired.contact.name();
    let text = format!(
        "paired with {name}\nboth of you have to see these words: {}\nif the other side sees different ones, somebody \
         sits in between",
        paired.words.join(" ")
    );
    output.say(&text, &Done { event: "paired", contact: name, words: &paired.words });
    Ok(())
}

async fn pair(party: &Party, code: Option<Phrase>, output: Output) -> Result<Paired> {
    if let Some(code) = code {
        return Ok(party.client().pair(&code).await?);
    }
    let shown = party.client().show_code().await?;
    let code = shown.code();
    output.say(&format!("the other side types: chappe pair … {code}"), &Shown { event: "code", code: &code });
    Ok(shown.paired().await?)
}
