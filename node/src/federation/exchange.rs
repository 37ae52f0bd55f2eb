//! Exchanges between members over a stream of a link. Each message has its length in front.

use std::{sync::Arc, time::Duration};

use chappe_common::keys::NodeId;
use quinn::{RecvStream, SendStream};
use tokio::{sync::oneshot, time::timeout};

use crate::{
    core::Core,
    links::DialError,
    membership::{
        event::Event,
        exchange::{ExchangeMessage, MAX_MESSAGE},
    },
};

/// First byte of an exchange stream.
pub(crate) const EXCHANGE_STREAM: u8 = 2;
/// Time limit of an exchange: two messages of half a megabyte at 2 Mbit/s.
const WAIT: Duration = Duration::from_secs(6);
/// Maximum messages of each side: a summary and its records, or members and their records.
const MESSAGES: usize = 2;

/// Why an exchange failed. Messages received before that count.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the stream of the exchange broke")]
    Stream,
    #[error("not a message of an exchange")]
    Malformed,
}

/// Compares views with a member, over an open link or a new one.
pub(crate) async fn run(core: &Arc<Core>, with: NodeId) {
    match timeout(WAIT, try_run(core, with)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, peer = with.short(), "exchange failed"),
        Err(_) => tracing::debug!(peer = with.short(), "exchange timed out"),
    }
}

async fn try_run(core: &Arc<Core>, with: NodeId) -> Result<(), ExchangeError> {
    let link = core.links.connect(with).await?;
    let (mut send, mut receive) = link.connection().open_bi().await.map_err(|_| ExchangeError::Stream)?;
    send.write_all(&[EXCHANGE_STREAM]).await.map_err(|_| ExchangeError::Stream)?;
    let (reply, first) = oneshot::channel();
    // The membership task ends only with the node.
    core.membership.send(Event::OpenExchange { with, reply }).await.map_err(|_| ExchangeError::Stream)?;
    let mut next = first.await.ok();
    for _ in 0..MESSAGES {
        let Some(ours) = next else { break };
        send_message(&mut send, &ours).await?;
        let Some(theirs) = receive_message(&mut receive).await? else { break };
        next = answer_to(core, with, theirs).await;
    }
    // The peer may have closed the stream first.
    let _ = send.finish();
    Ok(())
}

/// Answers an exchange that a peer opened. The first byte of the stream was already read.
pub(crate) async fn answer(core: &Core, peer: NodeId, send: SendStream, receive: RecvStream) {
    match timeout(WAIT, try_answer(core, peer, send, receive)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            core.context.metrics.link_protocol_errors.inc();
            tracing::debug!(%error, peer = peer.short(), "exchange failed");
        }
        Err(_) => tracing::debug!(peer = peer.short(), "exchange timed out"),
    }
}

async fn try_answer(
    core: &Core,
    peer: NodeId,
    mut send: SendStream,
    mut receive: RecvStream,
) -> Result<(), ExchangeError> {
    for _ in 0..MESSAGES {
        let Some(theirs) = receive_message(&mut receive).await? else { break };
        let Some(ours) = answer_to(core, peer, theirs).await else { break };
        send_message(&mut send, &ours).await?;
    }
    let _ = send.finish();
    Ok(())
}

async fn answer_to(core: &Core, from: NodeId, message: ExchangeMessage) -> Option<ExchangeMessage> {
    let (reply, answer) = oneshot::channel();
    core.membership.send(Event::Exchange { from, message, reply }).await.ok()?;
    answer.await.ok().flatten()
}

async fn send_message(stream: &mut SendStream, message: &ExchangeMessage) -> Result<(), ExchangeError> {
    let bytes = postcard::to_allocvec(message).map_err(|_| ExchangeError::Malformed)?;
    let len = u32::try_from(bytes.len()).map_err(|_| ExchangeError::Malformed)?;
    stream.write_all(&len.to_le_bytes()).await.map_err(|_| ExchangeError::Stream)?;
    stream.write_all(&bytes).await.map_err(|_| ExchangeError::Stream)
}

/// Receives the next message. Returns `None` at the end of the stream.
async fn receive_message(stream: &mut RecvStream) -> Result<Option<ExchangeMessage>, ExchangeError> {
    let mut len = [0; 4];
    match stream.read_exact(&mut len).await {
        Ok(()) => {}
        Err(quinn::ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(_) => return Err(ExchangeError::Stream),
    }
    let len = u32::from_le_bytes(len) as usize;
    if len > MAX_MESSAGE {
        return Err(ExchangeError::Malformed);
    }
    // Grows as data arrives: a claimed length alone allocates nothing.
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let chunk = stream.read_chunk(len - bytes.len(), true).await.map_err(|_| ExchangeError::Stream)?;
        bytes.extend_from_slice(&chunk.ok_or(ExchangeError::Stream)?.bytes);
    }
    match postcard::take_from_bytes(&bytes) {
        Ok((message, [])) => Ok(Some(message)),
        _ => Err(ExchangeError::Malformed),
    }
}
