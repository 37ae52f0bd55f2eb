//! Exchanges over a stream of a link: messages of membership, each with its length in front, until one side has no more
//! to say.

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

/// The first byte of the stream.
pub(crate) const EXCHANGE_STREAM: u8 = 2;
/// How long an exchange may take: two messages of half a megabyte at 2 Mbit/s.
const WAIT: Duration = Duration::from_secs(6);
/// Messages of one side in one exchange: a summary and its records, or members and their records.
const MESSAGES: usize = 2;

/// An exchange broke off; what was learnt until then counts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// There is no link.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The stream broke.
    #[error("the stream of the exchange broke")]
    Stream,
    /// Not a message of an exchange.
    #[error("not a message of an exchange")]
    Malformed,
}

/// Compares views with a member, over the link that is there or a new one.
pub(crate) async fn ask(core: &Arc<Core>, with: NodeId) {
    match timeout(WAIT, try_ask(core, with)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, peer = with.short(), "an exchange broke off"),
        Err(_) => tracing::debug!(peer = with.short(), "an exchange took too long"),
    }
}

async fn try_ask(core: &Arc<Core>, with: NodeId) -> Result<(), ExchangeError> {
    let link = core.links.connect(with).await?;
    let (mut send, mut receive) = link.connection().open_bi().await.map_err(|_| ExchangeError::Stream)?;
    send.write_all(&[EXCHANGE_STREAM]).await.map_err(|_| ExchangeError::Stream)?;
    let (reply, first) = oneshot::channel();
    // The membership task ends only with the node.
    core.membership.send(Event::OpenExchange { with, reply }).await.map_err(|_| ExchangeError::Stream)?;
    let mut next = first.await.ok();
    for _ in 0..MESSAGES {
        let Some(ours) = next else { break };
        tell(&mut send, &ours).await?;
        let Some(theirs) = hear(&mut receive).await? else { break };
        next = answer_to(core, with, theirs).await;
    }
    // The other side may have ended the stream first.
    let _ = send.finish();
    Ok(())
}

/// Answers the exchange that a peer has begun; its first byte has been read.
pub(crate) async fn answer(core: &Core, peer: NodeId, send: SendStream, receive: RecvStream) {
    match timeout(WAIT, try_answer(core, peer, send, receive)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            core.context.metrics.link_protocol_errors.inc();
            tracing::debug!(%error, peer = peer.short(), "an exchange broke off");
        }
        Err(_) => tracing::debug!(peer = peer.short(), "an exchange took too long"),
    }
}

async fn try_answer(
    core: &Core,
    peer: NodeId,
    mut send: SendStream,
    mut receive: RecvStream,
) -> Result<(), ExchangeError> {
    for _ in 0..MESSAGES {
        let Some(theirs) = hear(&mut receive).await? else { break };
        let Some(ours) = answer_to(core, peer, theirs).await else { break };
        tell(&mut send, &ours).await?;
    }
    let _ = send.finish();
    Ok(())
}

async fn answer_to(core: &Core, from: NodeId, message: ExchangeMessage) -> Option<ExchangeMessage> {
    let (reply, answer) = oneshot::channel();
    core.membership.send(Event::Exchange { from, message, reply }).await.ok()?;
    answer.await.ok().flatten()
}

async fn tell(stream: &mut SendStream, message: &ExchangeMessage) -> Result<(), ExchangeError> {
    let bytes = postcard::to_allocvec(message).map_err(|_| ExchangeError::Malformed)?;
    let len = u32::try_from(bytes.len()).map_err(|_| ExchangeError::Malformed)?;
    stream.write_all(&len.to_le_bytes()).await.map_err(|_| ExchangeError::Stream)?;
    stream.write_all(&bytes).await.map_err(|_| ExchangeError::Stream)
}

/// The next message; none: the other side has said all.
async fn hear(stream: &mut RecvStream) -> Result<Option<ExchangeMessage>, ExchangeError> {
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
    // Grown as it arrives: a length alone takes no memory.
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
