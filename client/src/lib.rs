//! The client library: pairing, contacts, sealing and the call state machine.
//!
//! A [`Client`] stays connected to a node and notifies its app by [`Events`]. The app owns media: session descriptions
//! and candidates are opaque texts here.
//!
//! ```no_run
//! # async fn example(roots: Vec<chappe_common::keys::PublicKey>) -> Result<(), Box<dyn std::error::Error>> {
//! use chappe_client::{Client, profile::Profile};
//!
//! let profile = Profile::open_or_create("profile", "Ada")?;
//! let (client, mut events) = Client::builder(profile).registry("https://registry.example", roots).connect().await?;
//! let contact = client.contacts().await?[0].id();
//! let call = client.call(contact, "v=0 …").await?;
//! let answer = call.answered().await.map_err(|reason| format!("{reason:?}"))?;
//! call.hang_up().await?;
//! # drop((answer, events.next().await));
//! # Ok(())
//! # }
//! ```
//!
//! The modules `cpace`, `pairing`, `contact`, `seal`, `call` and `negotiation` are pure: no network and no clock.

mod base64_bytes;
pub mod call;
mod client;
mod command;
pub mod contact;
pub mod contact_name;
pub mod cpace;
mod driver;
mod event;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod handle;
mod message;
mod negotiation;
mod nodes_in_use;
pub mod pairing;
mod pairing_runtime;
pub mod phrase;
pub mod profile;
mod protocol;
mod referral;
pub mod ring_limiter;
pub mod seal;
pub mod sealing_key;
pub mod words;

pub use client::{Client, ClientBuilder, ContactsError, StartError};
pub use command::{CallActionError, CallStatus, IceServersError, MAX_SDP};
pub use event::{DisconnectReason, Event, Events, InboxRejection, Step, StepKind};
pub use handle::Call;
pub use pairing_runtime::{CODE_LIFETIME, PairError, Paired, ShownCode};
pub use protocol::IceServer;
