//! `chappe pair`: one side shows a code, the other types it in, and both compare the words.

use std::{
    collections::HashMap,
    io::{self, BufRead as _, Read as _},
    path::PathBuf,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use chappe_client::{Paired, phrase::Phrase};
use clap::Args;
use serde::Serialize;

use crate::{
    network::{ProfileArgs, learn_federation},
    output::Output,
    party::Party,
    qr,
    signals::Signals,
    timeline::Timeline,
};

/// The longest line that is read as a code: a link with a long site's name.
const MAX_CODE: u64 = 2048;

/// Who pairs, and by which code.
#[derive(Args, Debug)]
pub(crate) struct PairArgs {
    #[command(flatten)]
    profile: ProfileArgs,

    /// The code that the other side shows, or its link or what its QR code says; `-` reads it from standard input, so that
    /// other users of this machine don't see it in the list of processes; without it, this side shows one
    code: Option<String>,

    /// Shows a QR code and a link: in the terminal, or in a file that ends in .png or .svg
    #[arg(long, value_name = "FILE", num_args = 0..=1, conflicts_with = "code")]
    qr: Option<Option<PathBuf>>,

    /// The site that links begin with; it never sees what follows
    #[arg(long, value_name = "URL", default_value = "https://chappe.invalid", value_parser = parse_site)]
    site: String,

    /// Forget this contact first, to pair with the same person anew
    #[arg(long, value_name = "CONTACT")]
    forget: Option<String>,
}

#[derive(Serialize)]
struct Shown<'a> {
    event: &'static str,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    qr: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a str>,
}

#[derive(Serialize)]
struct Done<'a> {
    event: &'static str,
    contact: &'a str,
    words: &'a [&'a str],
    /// Whether the other side is known to have stored the contact.
    confirmed: bool,
}

pub(crate) async fn run(args: &PairArgs, output: Output) -> Result<()> {
    let mut signals = Signals::listen()?;
    let code = match args.code.as_deref() {
        Some("-") => tokio::select! {
            biased;
            () = signals.stop() => bail!("stopped before a code was read"),
            code = read_code() => Some(code?),
        },
        code => code.map(str::to_owned),
    };
    let typed: Option<Phrase> = code.as_deref().and_then(|code| code.parse().ok());
    // What is no code is a link, or says what is wrong with it.
    let link = code.as_deref().filter(|_| typed.is_none());
    if let Some(text) = link.filter(|text| !text.contains([':', '#'])) {
        text.parse::<Phrase>().context("CODE")?;
    }
    // Before anything is connected: a contact can be forgotten where no node is reached.
    if let Some(name) = &args.forget {
        args.profile.forget(name)?;
        output.remark(&format!("forgot {name}"));
    }
    let (_, builder, link) = args.profile.builder_by(link)?;
    let code = match &link {
        Some(link) => {
            let code = link.code().context("this link names nodes and holds no code to pair by")?;
            Some(code.parse().context("the link's code")?)
        }
        None => typed,
    };
    // What happens on the way is of no interest here.
    let quiet = Timeline::new(Output::silent(), Instant::now(), HashMap::new());
    let party = tokio::select! {
        biased;
        () = signals.stop() => bail!("stopped before a node was found"),
        party = Party::connect("you", builder, quiet) => party?,
    };
    let paired = tokio::select! {
        biased;
        () = signals.stop() => None,
        (paired, learned) = async {
            let learn = async {
                match &link {
                    Some(link) => learn_federation(args.profile.folder(), link).await,
                    None => Ok(()),
                }
            };
            tokio::join!(pair(&party, code, args, output), learn)
        } => {
            if let Err(error) = learned {
                tracing::warn!(error = format!("{error:#}"), "the profile does not remember the link's federation");
            }
            Some(paired)
        }
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
    let text = if paired.confirmed {
        text
    } else {
        format!("{text}\nthe other side has not confirmed it: ask whether it says «paired», and pair again if not")
    };
    let confirmed = paired.confirmed;
    output.say(&text, &Done { event: "paired", contact: name, words: &paired.words, confirmed });
    Ok(())
}

/// A line of standard input.
async fn read_code() -> Result<String> {
    let read = || {
        let mut line = String::new();
        io::stdin().lock().take(MAX_CODE).read_line(&mut line).map(|_| line.trim().to_owned())
    };
    let code = tokio::task::spawn_blocking(read).await?.context("cannot read the code from standard input")?;
    if code.is_empty() { bail!("standard input holds no code") } else { Ok(code) }
}

async fn pair(party: &Party, code: Option<Phrase>, args: &PairArgs, output: Output) -> Result<Paired> {
    if let Some(code) = code {
        return Ok(party.client().pair(&code).await?);
    }
    let Some(file) = &args.qr else {
        let shown = party.client().show_code().await?;
        let code = shown.code();
        let event = Shown { event: "code", code: &code, qr: None, link: None };
        output.say(&format!("the other side types: chappe pair … {code}"), &event);
        return Ok(shown.paired().await?);
    };
    let shown = party.client().show_link().await?;
    let link = shown.link().context("no link to this node can be made")?;
    let (qr, url) = (link.to_qr_text(), link.to_url(&args.site));
    let picture = match file {
        Some(path) => {
            qr::write(&qr, path)?;
            format!("the QR code is in {}", path.display())
        }
        None => qr::for_terminal(&qr)?,
    };
    let text =
        format!("{picture}\nor the other side runs: chappe pair … '{url}'\ngood for ten minutes and one attempt");
    output.say(&text, &Shown { event: "code", code: &shown.code(), qr: Some(&qr), link: Some(&url) });
    Ok(shown.paired().await?)
}

fn parse_site(text: &str) -> Result<String, String> {
    let is_site = text.strip_prefix("https://").is_some_and(|host| !host.is_empty() && !host.contains('#'));
    if is_site { Ok(text.to_owned()) } else { Err("an https:// URL is expected".to_owned()) }
}
