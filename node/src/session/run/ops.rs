//! The open questions of a session. Most sessions have none for hours, and then keep nothing for them.

use std::task::{Context, Poll};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};

use super::OpResult;

/// The questions, each until its answer is taken.
#[derive(Default)]
pub(super) struct Ops(Option<FuturesUnordered<BoxFuture<'static, OpResult>>>);

impl Ops {
    /// Asks one more. It starts with the next [`Ops::poll_next`].
    pub(super) fn push(&mut self, op: impl Future<Output = OpResult> + Send + 'static) {
        self.0.get_or_insert_default().push(Box::pin(op));
    }

    /// The next answer. Pending where no question is open, too: then nobody is woken by it.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<OpResult> {
        let Some(open) = &mut self.0 else { return Poll::Pending };
        let next = open.poll_next_unpin(cx);
        if open.is_empty() {
            self.0 = None;
        }
        if let Poll::Ready(Some(done)) = next { Poll::Ready(done) } else { Poll::Pending }
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, FuturesUnordered::len)
    }

    /// Whether none is.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
