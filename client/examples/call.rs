//! Calls the first contact: `call PROFILE REGISTRY ROOT`. Without a contact, it shows a code to pair with first.

use chappe_client::{Client, profile::Profile};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &'static str| args.next().ok_or(what);
    let profile = Profile::open_or_create(next("which profile?")?, "caller")?;
    let (client, _events) =
        Client::builder(profile).registry(next("which registry?")?, [next("which root?")?.parse()?]).connect().await?;
    let contact = match client.contacts().await?.first() {
        Some(contact) => contact.id(),
        None => {
            let shown = client.show_code().await?;
            println!("type this code on the other side: {}", shown.code());
            let paired = shown.paired().await?;
            println!("paired; both sides see: {}", paired.words.join(" "));
            paired.contact.id()
        }
    };

    let call = client.call(contact, "v=0 (the offer of a WebRTC stack)").await?;
    let answer = call.answered().await.map_err(|reason| format!("not answered: {reason:?}"))?;
    call.send_candidates(["candidate:1 1 udp 1 192.0.2.1 9 typ host"]).await?;
    println!("answered: {answer}");
    call.hang_up().await?;

    client.shutdown().await;
    Ok(())
}
