//! A proxy in front of a node that changes the node's messages. Tests use it for refusals that a node gives only under
//! load, and for nodes that lie.

use std::net::{Ipv4Addr, SocketAddr};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_tungstenite::{accept_async, connect_async, tungstenite::Message};
use tokio_util::task::AbortOnDropHandle;

/// The proxy, bound and not yet serving.
#[derive(Debug)]
pub struct Altered {
    listener: TcpListener,
}

impl Altered {
    /// Binds a free port on loopback.
    ///
    /// # Panics
    /// No port is free.
    pub async fn bind() -> Self {
        Self { listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port") }
    }

    /// The URL for clients. The node has to advertise it as its own.
    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.listener.local_addr().expect("a bound socket"))
    }

    /// Forwards clients to the node. `change` returns, for the number of a client, the function that edits the node's
    /// messages to it. A message that it sets to `null` is dropped.
    /// Dropping the handle ends the proxy and its connections.
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
