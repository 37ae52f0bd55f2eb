//! A timer that is only polled if a deadline may have changed. Most messages set no deadline.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{task::coop::unconstrained, time::Sleep};

/// The state of a session's timer. Only one task may poll it: the timer keeps the waker of the last poll.
pub(super) struct LazyTimer {
    at: Instant,
    /// A deadline may be earlier than `at`.
    is_stale: bool,
}

impl LazyTimer {
    /// Creates the state for a timer that has not been polled.
    pub(super) const fn new(now: Instant) -> Self {
        Self { at: now, is_stale: true }
    }

    /// Notes that a deadline may have changed.
    pub(super) const fn invalidate(&mut self) {
        self.is_stale = true;
    }

    /// Returns whether [`LazyTimer::invalidate`] was called since the last poll.
    pub(super) const fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// Returns whether the timer has to be polled.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.is_stale || now >= self.at
    }

    /// Polls the timer. Resets it if it has fired, if `next` is earlier, or if `next` is more than `slack` later.
    ///
    /// The idle deadline moves with every message. One early wake-up is cheaper than a reset for each message.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        next: Instant,
        slack: Duration,
    ) -> Poll<()> {
        self.is_stale = false;
        let next = next.into();
        if timer.is_elapsed() || next < timer.deadline() || next > timer.deadline() + slack {
            timer.as_mut().reset(next);
        }
        self.at = timer.deadline().into_std();
        // With tokio's task budget used up, the timer would return pending without registering the waker.
        Pin::new(&mut unconstrained(timer)).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin};

    use tokio::time::sleep_until;

    use super::*;

    const SLACK: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_polled_timer_is_not_due_before_its_deadline() {
        let now = Instant::now();
        let mut timer = LazyTimer::new(now);
        let mut sleep = pin!(sleep_until((now + SLACK).into()));
        assert!(timer.is_due(now), "the timer has no waker yet");
        poll_fn(|cx| {
            assert!(timer.poll(cx, sleep.as_mut(), now + SLACK, SLACK).is_pending());
            Poll::Ready(())
        })
        .await;
        assert!(!timer.is_due(now) && !timer.is_stale());
        assert!(timer.is_due(now + SLACK), "it fires");
        timer.invalidate();
        assert!(timer.is_due(now) && timer.is_stale());
    }

    #[tokio::test]
    async fn a_timer_is_reset_only_to_an_earlier_or_much_later_deadline() {
        let now = Instant::now();
        let mut timer = LazyTimer::new(now);
        let mut sleep = pin!(sleep_until((now + SLACK * 2).into()));
        poll_fn(|cx| {
            for (next, fires) in [
                (SLACK * 2, SLACK * 2),
                (SLACK * 3, SLACK * 2),
                (SLACK * 3 + Duration::from_secs(1), SLACK * 3 + Duration::from_secs(1)),
                (SLACK, SLACK),
            ] {
                assert!(timer.poll(cx, sleep.as_mut(), now + next, SLACK).is_pending());
                assert_eq!(timer.at, now + fires);
            }
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_task_that_has_used_up_its_budget_is_still_woken() {
        let soon = Instant::now() + Duration::from_millis(20);
        let mut timer = LazyTimer::new(soon);
        let mut sleep = pin!(sleep_until((soon + SLACK).into()));
        let mut is_first = true;
        let fired = poll_fn(|cx| {
            while tokio::task::coop::has_budget_remaining() && std::mem::take(&mut is_first) {
                while let Poll::Ready(spent) = tokio::task::coop::poll_proceed(cx) {
                    spent.made_progress();
                }
            }
            if timer.is_due(Instant::now()) { timer.poll(cx, sleep.as_mut(), soon, SLACK) } else { Poll::Pending }
        });
        // The timeout polls the future once more when it elapses, and finds the timer due. So check the time as well.
        tokio::time::timeout(SLACK, fired).await.expect("it fires");
        assert!(Instant::now() < soon + SLACK / 2, "the task was not woken");
    }
}
