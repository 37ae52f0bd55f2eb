//! Several who are asked the same at once: whoever answers first decides when it is over, and not whoever is silent.

use std::time::Duration;

use futures_util::{StreamExt as _, stream::FuturesUnordered};

use crate::source::SourceError;

/// How long the others have once one has answered well: a newer directory is worth a moment, not a stalled start.
const GRACE: Duration = Duration::from_millis(150);

/// The good answers that come within a moment of the first one.
///
/// # Errors
/// None is good: what was wrong with the last.
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
