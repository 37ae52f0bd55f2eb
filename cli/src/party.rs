//! One person in a call: a client, and the task that reads what it tells.
//!
//! The task prints steps as they happen and hands on what concerns calls, so that whoever talks sees only that.

use std::net::IpAddr;

use anyhow::{Result, anyhow};
use chappe_client::{Client, ClientBuilder, Event, Events, StepKind};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::timeline::Timeline;

/// Events that wait for whoever talks; a call has about thirty.
const EVENTS: usize = 256;

/// A running client under a name.
#[derive(Debug)]
pub(crate) struct Party {
    name: String,
    client: Client,
    timeline: Timeline,
    local_ip: watch::Receiver<Option<IpAddr>>,
    events: mpsc::Receiver<Event>,
    _pump: JoinSet<()>,
}

impl Party {
    /// Connects.
    pub(crate) async fn connect(name: &str, builder: ClientBuilder, timeline: Timeline) -> Result<Self> {
        let (client, events) = builder.connect().await?;
        let (sender, receiver) = mpsc::channel(EVENTS);
        let mut pump = JoinSet::new();
        let (ip_sender, local_ip) = watch::channel(None);
        pump.spawn(hand_on(name.to_owned(), client.clone(), events, (sender, ip_sender), timeline.clone()));
        Ok(Self { name: name.to_owned(), client, timeline, local_ip, events: receiver, _pump: pump })
    }

    /// Who it is.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The client.
    pub(crate) const fn client(&self) -> &Client {
        &self.client
    }

    /// The address of this machine on the connection to its node: good for media too, on all but odd networks.
    pub(crate) async fn local_ip(&self) -> Result<IpAddr> {
        let mut local_ip = self.local_ip.clone();
        let known = local_ip.wait_for(Option::is_some).await;
        known.ok().and_then(|known| *known).ok_or_else(|| anyhow!("the client has stopped"))
    }

    /// Where this party's steps are printed.
    pub(crate) fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// What happens next to a call; `None` once the client has stopped.
    pub(crate) async fn next_event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Says goodbye.
    pub(crate) async fn shutdown(self) {
        self.client.shutdown().await;
    }
}

async fn hand_on(
    name: String,
    client: Client,
    mut events: Events,
    (sender, ip_sender): (mpsc::Sender<Event>, watch::Sender<Option<IpAddr>>),
    timeline: Timeline,
) {
    let mut peer_node = None;
    while let Some(event) = events.next().await {
        if let Event::Step(step) = &event
            && let StepKind::Resolved { peer_node: node } = step.kind
        {
            peer_node = Some(node);
        }
        if let Event::Connected { local_ip, .. } = &event {
            ip_sender.send_replace(Some(*local_ip));
        }
        timeline.client_event(&name, &event, peer_node);
        if let Event::InboxRejected { contact, reason } = &event {
            let contacts = client.contacts().await.unwrap_or_default();
            let known = contacts.iter().find(|known| known.id() == *contact);
            let who = known.map_or("a contact", chappe_client::contact::Contact::name);
            timeline.now(&[&name], &format!("{who} can't call now: {reason}"));
        }
        let of_a_call = match &event {
            Event::Step(step) => step.call.is_some(),
            Event::Reachable { .. }
            | Event::IncomingCall { .. }
            | Event::CallAnswered { .. }
            | Event::Candidates { .. }
            | Event::CallEnded { .. } => true,
            _ => false,
        };
        if of_a_call && sender.send(event).await.is_err() {
            return;
        }
    }
}
