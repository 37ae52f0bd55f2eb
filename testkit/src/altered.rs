//! A way to a node on which something changes its answers: for refusals that a node gives only when thousands crowd it, and
//! for nodes that lie.

use std::net::{Ipv4Addr, SocketAddr};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_tungstenite::{accept_async, connect_async, tungstenite::Message};
use tokio_util::task::AbortOnDropHandle;

/// The way's beginning.
#[derive(Debug)]
pub struct Altered {
    listener: TcpListener,
}

impl Altered {
    /// A way that leads nowhere yet.
    ///
    /// # Panics
    /// There is no port for it.
    pub async fn bind() -> Self {
        Self { listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port") }
    }

    /// What a client dials, and what the node has to name as its own.
    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.listener.local_addr().expect("a bound socket"))
    }

    /// Leads clients to the node, whose messages `change` may change: those of the first client, of the second, and so on.
    /// One that becomes `null` is dropped.
    /// The way and all that is under way on it end when what this returns is dropped.
    pub fn lead_to<C: FnMut(&mut Value) + Send + 'static>(
        self,
        node: SocketAddr,
        change: impl FnMut(usize) -> C + Send + 'static,
    ) -> AbortOnDropHandle<()> {
        AbortOnDropHandle::new(tokio::spawn(self.lead(node, change)))
    }

    async fn lead<C: FnMut(&mut Value) + Send + 'static>(self, node: SocketAddr, mut change: impl FnMut(usize) -> C) {
        let mut clients = JoinSet::new();
        for number in 0.. {
            let Ok((stream, _)) = self.listener.accept().await else { return };
            let mut change = change(number);
            clients.spawn(async move {
                let (Ok(client), Ok((to_node, _))) =
                    tokio::join!(accept_async(stream), connect_async(format!("ws://{node}/ws")))
                else {
                    return;
                };
                let ((mut to_client, from_client), (to_node, from_node)) = (client.split(), to_node.split());
                let answers = async {
                    let mut from_node = from_node;
                    while let Some(Ok(message)) = from_node.next().await {
                        let answer = match &message {
                            Message::Text(text) => serde_json::from_str(text).ok(),
                            _ => None,
                        };
                        let altered = match answer {
                            Some(mut answer) => {
                                change(&mut answer);
                                if answer.is_null() {
                                    continue;
                                }
                                Message::text(answer.to_string())
                            }
                            None => message,
                        };
                        if to_client.send(altered).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! {
                    () = answers => {}
                    _ = from_client.forward(to_node) => {}
                }
            });
        }
    }
}
