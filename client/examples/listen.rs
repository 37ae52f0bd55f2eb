//! Accepts every call: `listen PROFILE REGISTRY ROOT [CODE]`. With CODE, it pairs first.
//!
//! The session descriptions are placeholders: a real app passes those of its WebRTC stack.

use chappe_client::{Client, Event, profile::Profile};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &'static str| args.next().ok_or(what);
    let profile = Profile::open_or_create(next("which profile?")?, "listener")?;
    let (client, mut events) =
        Client::builder(profile).registry(next("which registry?")?, [next("which root?")?.parse()?]).connect().await?;
    if let Some(code) = args.next() {
        let paired = client.pair(&code.parse()?).await?;
        println!("paired; both sides see: {}", paired.words.join(" "));
    }
    while let Some(event) = events.next().await {
        match event {
            Event::IncomingCall { call, name, .. } => {
                println!("{} calls", *name);
                call.accept("v=0 (the answer of a WebRTC stack)").await?;
            }
            Event::CallEnded { reason, .. } => println!("the call is over: {reason:?}"),
            _ => {}
        }
    }
    Ok(())
}
