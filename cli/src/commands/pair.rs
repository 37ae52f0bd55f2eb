//! `chappe pair`: one side shows a code, the other enters it, and both compare the words.

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
    call_client::CallClient,
    network::{ProfileArgs, learn_federation},
    output::Output,
    qr,
    signals::Signals,
    timeline::Timeline,
};

/// Maximal length of a code that is read: a link with a long host name.
const MAX_CODE: u64 = 2048;

#[derive(Args, Debug)]
pub(crate) struct PairArgs {
    #[command(flatten)]
    profile: ProfileArgs,

    /// Code, link or QR text of the other side; `-` reads it from standard input, so that it is not in the list of
    /// processes. Without it, this side shows a code
    code: Option<String>,

    /// Show a QR code and a link: in the terminal, or in a .png or .svg file
    #[arg(long, value_name = "FILE", num_args = 0..=1, conflicts_with = "code")]
    qr: Option<Option<PathBuf>>,

    /// Base URL of the link; the site does not see the rest
    #[arg(long, value_name = "URL", default_value = "https://chappe.invalid", value_parser = parse_site)]
    site: String,

    /// Remove this contact first, to pair with the same person again
    #[arg(long, value_name = "CONTACT")]
    forget: Option<String>,

    /// Block this contact instead of pairing: it cannot call, and sees you as offline
    #[arg(long, value_name = "CONTACT", conflicts_with_all = ["code", "qr", "forget"])]
    block: Option<String>,

    /// Unblock this contact instead of pairing
    #[arg(long, value_name = "CONTACT", conflicts_with_all = ["code", "qr", "forget", "block"])]
    unblock: Option<String>,
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
struct Changed<'a> {
    event: &'static str,
    contact: &'a str,
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
    // Neither needs a node.
    if let Some(name) = &args.block {
        args.profile.block(name, true)?;
        output.print(&format!("blocked {name}"), &Changed { event: "blocked", contact: name });
        return Ok(());
    }
    if let Some(name) = &args.unblock {
        args.profile.block(name, false)?;
        output.print(&format!("unblocked {name}"), &Changed { event: "unblocked", contact: name });
        return Ok(());
    }
    let mut signals = Signals::for_foreground()?;
    let code = match args.code.as_deref() {
        Some("-") => tokio::select! {
            biased;
            () = signals.stop() => bail!("stopped before a code was read"),
            code = read_code() => Some(code?),
        },
        code => code.map(str::to_owned),
    };
    let typed: Option<Phrase> = code.as_deref().and_then(|code| code.parse().ok());
    // A text that is not a code is parsed as a link, which reports what is wrong with it.
    let link = code.as_deref().filter(|_| typed.is_none());
    if let Some(text) = link.filter(|text| !text.contains([':', '#'])) {
        text.parse::<Phrase>().context("CODE")?;
    }
    // Before connecting, because removing a contact does not need a node.
    if let Some(name) = &args.forget {
        args.profile.forget(name)?;
        output.print_text(&format!("removed {name}"));
    }
    let (_, builder, link) = args.profile.builder_with_link(link)?;
    let code = match &link {
        Some(link) => {
            let code = link.code().context("this link has no code to pair by")?;
            Some(code.parse().context("the link's code")?)
        }
        None => typed,
    };
    // The steps are not printed here.
    let quiet = Timeline::new(Output::silent(), Instant::now(), HashMap::new());
    let client = tokio::select! {
        biased;
        () = signals.stop() => bail!("stopped before a node was found"),
        client = CallClient::connect("you", builder, quiet) => client?,
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
            tokio::join!(pair(&client, code, args, output), learn)
        } => {
            if let Err(error) = learned {
                            tracing::warn!(error = format!("{error:#}"), "cannot store the link's federation in the profile");
            }
            Some(paired)
        }
    };
    client.shutdown().await;
    let Some(paired) = paired else { bail!("stopped before the pairing was complete") };
    let paired = paired?;
    let name = paired.contact.name();
    let text = format!(
        "paired with {name}\nboth sides must see these words: {}\nif they differ, somebody intercepts the pairing",
        paired.words.join(" ")
    );
    let text = if paired.confirmed {
        text
    } else {
        format!("{text}\nthe other side has not confirmed it: check that it shows «paired», and pair again if not")
    };
    let confirmed = paired.confirmed;
    output.print(&text, &Done { event: "paired", contact: name, words: &paired.words, confirmed });
    Ok(())
}

/// Reads a line of standard input.
async fn read_code() -> Result<String> {
    let read = || {
        let mut line = String::new();
        io::stdin().lock().take(MAX_CODE).read_line(&mut line).map(|_| line.trim().to_owned())
    };
    let code = tokio::task::spawn_blocking(read).await?.context("cannot read the code from standard input")?;
    if code.is_empty() { bail!("no code on standard input") } else { Ok(code) }
}

async fn pair(client: &CallClient, code: Option<Phrase>, args: &PairArgs, output: Output) -> Result<Paired> {
    if let Some(code) = code {
        return Ok(client.client().pair(&code).await?);
    }
    let Some(file) = &args.qr else {
        let shown = client.client().show_code().await?;
        let code = shown.code();
        let event = Shown { event: "code", code: &code, qr: None, link: None };
        output.print(&format!("on the other side, run: chappe pair … {code}"), &event);
        return Ok(shown.paired().await?);
    };
    let shown = client.client().show_link().await?;
    let link = shown.link().context("cannot create a link to this node")?;
    let (qr, url) = (link.to_qr_text(), link.to_url(&args.site));
    let picture = match file {
        Some(path) => {
            qr::write(&qr, path)?;
            format!("the QR code is in {}", path.display())
        }
        None => qr::for_terminal(&qr)?,
    };
    let text =
        format!("{picture}\nor run on the other side: chappe pair … '{url}'\nvalid for ten minutes and one attempt");
    output.print(&text, &Shown { event: "code", code: &shown.code(), qr: Some(&qr), link: Some(&url) });
    Ok(shown.paired().await?)
}

fn parse_site(text: &str) -> Result<String, String> {
    let is_site = text.strip_prefix("https://").is_some_and(|host| !host.is_empty() && !host.contains('#'));
    if is_site { Ok(text.to_owned()) } else { Err("an https:// URL is expected".to_owned()) }
}
