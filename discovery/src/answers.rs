//! Concurrent requests for the same thing, which end shortly after the first valid response instead of waiting for all.

use std::time::Duration;

use futures_util::{StreamExt as _, stream::FuturesUnordered};

use crate::source::SourceError;

/// How long to wait for more responses after the first valid one: a newer directory is worth a short wait, but not a
/// stall.
const GRACE: Duration = Duration::from_millis(150);

/// The valid responses that arrive within [`GRACE`] after the first one.
///
/// # Errors
/// No response is valid: the error of the last one.
pub(crate) async fn first_answers<T>(
    asked: impl Iterator<Item = impl Future<Output = Result<T, SourceError>>>,
) -> Result<Vec<T>, SourceError> {
    let mut asked: FuturesUnordered<_> = asked.collect();
    let mut failure = SourceError::Empty;
    let mut answers = loop {
        match asked.next().await {
            Some(Ok(answer)) => break vec![answer],
            Some(Err(error)) => failure = error,
            None => return Err(failure),
        }
    };
    let grace = tokio::time::sleep(GRACE);
    tokio::pin!(grace);
    loop {
        tokio::select! {
            biased;
            () = &mut grace => return Ok(answers),
            next = asked.next() => match next {
                Some(Ok(answer)) => answers.push(answer),
                Some(Err(_)) => {}
                None => return Ok(answers),
            },
        }
    }
}
