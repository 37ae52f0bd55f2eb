//! A client for calls, with a task that reads its events.
//!
//! The task prints the steps as they happen, and forwards only the events of calls.

use std::net::IpAddr;

use anyhow::{Result, anyhow};
use chappe_client::{Client, ClientBuilder, Event, Events, StepKind};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::timeline::Timeline;

/// Capacity of the queue of call events. A call has about thirty.
const EVENTS: usize = 256;

/// A running client with a name for the timeline.
#[derive(Debug)]
pub(crate) struct CallClient {
    name: String,
    client: Client,
    timeline: Timeline,
    local_ip: watch::Receiver<Option<IpAddr>>,
    events: mpsc::Receiver<Event>,
    _forwarder: JoinSet<()>,
}

impl CallClient {
    pub(crate) async fn connect(name: &str, builder: ClientBuilder, timeline: Timeline) -> Result<Self> {
        let (client, events) = builder.connect().await?;
        let (sender, receiver) = mpsc::channel(EVENTS);
        let mut forwarder = JoinSet::new();
        let (ip_sender, local_ip) = watch::channel(None);
        let senders = EventSenders { call_events: sender, local_ip: ip_sender };
        forwarder.spawn(forward_events(name.to_owned(), client.clone(), events, senders, timeline.clone()));
        Ok(Self { name: name.to_owned(), client, timeline, local_ip, events: receiver, _forwarder: forwarder })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// This machine's address on the connection to the node. On most networks it also works for media.
    pub(crate) async fn local_ip(&self) -> Result<IpAddr> {
        let mut local_ip = self.local_ip.clone();
        let known = local_ip.wait_for(Option::is_some).await;
        known.ok().and_then(|known| *known).ok_or_else(|| anyhow!("the client has stopped"))
    }

    pub(crate) fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// The next event of a call, or `None` after the client has stopped.
    pub(crate) async fn next_event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    pub(crate) async fn shutdown(self) {
        self.client.shutdown().await;
    }
}

/// Where the task forwards what it reads.
struct EventSenders {
    call_events: mpsc::Sender<Event>,
    local_ip: watch::Sender<Option<IpAddr>>,
}

async fn forward_events(name: String, client: Client, mut events: Events, senders: EventSenders, timeline: Timeline) {
    let mut peer_node = None;
    while let Some(event) = events.next().await {
        if let Event::Step(step) = &event
            && let StepKind::Resolved { peer_node: node } = step.kind
        {
            peer_node = Some(node);
        }
        if let Event::Connected { local_ip, .. } = &event {
            senders.local_ip.send_replace(Some(*local_ip));
        }
        timeline.add_client_event(&name, &event, peer_node);
        if let Event::InboxRejected { contact, reason } = &event {
            let contacts = client.contacts().await.unwrap_or_default();
            let known = contacts.iter().find(|known| known.id() == *contact);
            let who = known.map_or("a contact", chappe_client::contact::Contact::name);
            timeline.add_step_now(&[&name], &format!("{who} cannot call now: {reason}"));
        }
        let is_call_event = match &event {
            Event::Step(step) => step.call.is_some(),
            Event::Reachable { .. }
            | Event::IncomingCall { .. }
            | Event::CallRejoined { .. }
            | Event::CallAnswered { .. }
            | Event::Candidates { .. }
            | Event::Renegotiation { .. }
            | Event::RenegotiationAnswered { .. }
            | Event::RenegotiationUnanswered { .. }
            | Event::CallEnded { .. } => true,
            _ => false,
        };
        if is_call_event && senders.call_events.send(event).await.is_err() {
            return;
        }
    }
}
