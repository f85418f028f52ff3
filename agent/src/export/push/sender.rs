//! Takes exports from the queue and does not let go of one before it is known what became of it.

use super::delivery::Delivery;
use super::queue::{Batch, Queue};
use super::reply::Reply;
use super::stats::{Outcome, Reason, Stats};
use super::{Client as _, Part, Target};
use rand::Rng as _;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// Sends batch after batch.
pub struct Sender<'a, T: Target> {
    delivery: &'a Delivery,
    target: &'a T,
    stats: &'a Stats,
    /// `None` after a failure: made anew, files read again.
    client: Option<T::Client>,
    /// True at shutdown: waits are cut short.
    hurry: watch::Receiver<bool>,
    /// The last attempt failed, and the log has said so.
    failing: bool,
}

/// The requests of the batch in hand. What is left when the sender is stopped is counted.
struct InHand<'a> {
    parts: VecDeque<Part>,
    outcome: Outcome,
    stats: &'a Stats,
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        let left: u64 = self.parts.iter().map(|p| p.points).sum();
        if !self.parts.is_empty() {
            self.stats.dropped(Reason::Shutdown, left);
            self.stats.end(left);
            self.outcome = Outcome::Dropped;
        }
        self.stats.batch(self.outcome);
    }
}

impl<'a, T: Target> Sender<'a, T> {
    /// The first client may be there already: made to check its files.
    pub fn new(
        delivery: &'a Delivery,
        target: &'a T,
        client: Option<T::Client>,
        stats: &'a Stats,
        hurry: watch::Receiver<bool>,
    ) -> Self {
        Self {
            delivery,
            target,
            stats,
            client,
            hurry,
            failing: false,
        }
    }

    /// Ends when the queue is closed and empty.
    pub async fn run(&mut self, queue: &Queue) {
        while let Some(batch) = queue.pop().await {
            self.batch(batch).await;
        }
    }

    async fn batch(&mut self, batch: Batch) {
        let mut hand = InHand {
            parts: batch.into(),
            outcome: Outcome::Sent,
            stats: self.stats,
        };
        while let Some(part) = hand.parts.front() {
            let outcome = self.part(part).await;
            hand.outcome = hand.outcome.max(outcome);
            self.stats.end(part.points);
            hand.parts.pop_front();
        }
    }

    async fn part(&mut self, part: &Part) -> Outcome {
        let begin = Instant::now();
        let mut backoff = self.delivery.retry.initial;
        loop {
            match self.attempt(part).await {
                Reply::Accepted { rejected, message } => {
                    if std::mem::take(&mut self.failing) {
                        tracing::info!("{}: the receiver accepts again", self.delivery.name);
                    }
                    // It cannot have rejected more than it got.
                    let rejected = rejected.min(part.points);
                    self.stats.sent(part.points - rejected);
                    self.stats.dropped(Reason::Partial, rejected);
                    if rejected > 0 || !message.is_empty() {
                        tracing::warn!(rejected, message, "{}: partial success", self.delivery.name);
                    }
                    return if rejected > 0 {
                        Outcome::Partial
                    } else {
                        Outcome::Sent
                    };
                }
                Reply::Permanent { cause } => {
                    // 401 and the like: a new token or certificate may be there.
                    self.client = None;
                    self.complain(&cause, "dropped");
                    self.stats.dropped(Reason::Permanent, part.points);
                    return Outcome::Dropped;
                }
                Reply::Retry { after, cause } => {
                    self.client = None;
                    let wait = wait(backoff, after, self.delivery.retry.max);
                    if begin.elapsed() + wait > self.delivery.retry.max_elapsed {
                        self.complain(&cause, "given up");
                        self.stats.dropped(Reason::Expired, part.points);
                        return Outcome::Dropped;
                    }
                    self.complain(&cause, "retrying");
                    self.stats.retry();
                    self.pause(wait).await;
                    backoff = (backoff * 2).min(self.delivery.retry.max);
                }
            }
        }
    }

    async fn attempt(&mut self, part: &Part) -> Reply {
        if self.client.is_none() {
            match self.target.client() {
                Ok(client) => self.client = Some(client),
                Err(error) => return Reply::retry(format!("{error:#}")),
            }
        }
        let Some(client) = &self.client else {
            return Reply::retry("no client");
        };
        let limit = self.delivery.timeout;
        timeout(limit, client.send(part)).await.unwrap_or_else(|_| {
            Reply::retry(format!("no reply within {}", humantime::format_duration(limit)))
        })
    }

    /// At shutdown there are only seconds: the wait ends, and what follows are short ones.
    async fn pause(&mut self, wait: Duration) {
        if *self.hurry.borrow_and_update() {
            tokio::time::sleep(wait.min(Duration::from_millis(250))).await;
            return;
        }
        let _ = timeout(wait, self.hurry.changed()).await;
    }

    /// One line at the first failure since a request was accepted, not one each time. An export of which one request is refused
    /// and the next accepted has its line each time, and so has each partial success.
    fn complain(&mut self, cause: &str, what: &str) {
        let (name, host) = (
            &self.delivery.name,
            self.delivery.url.host_str().unwrap_or_default(),
        );
        if std::mem::replace(&mut self.failing, true) {
            tracing::debug!(host, cause, what, "{name}: attempt failed");
        } else {
            tracing::warn!(
                host,
                cause,
                what,
                "{name}: attempt failed; further failures are counted, not logged, until a request is accepted"
            );
        }
    }
}

/// Half to all of the backoff, by chance, so that agents that failed together do not return together; at least what
/// the receiver asks for, within the limit.
pub fn wait(backoff: Duration, after: Option<Duration>, max: Duration) -> Duration {
    let own = backoff.min(max).mul_f64(rand::rng().random_range(0.5..=1.0));
    after.map_or(own, |after| after.min(max).max(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_within_their_limits() {
        let seconds = Duration::from_secs;
        for _ in 0..1_000 {
            let own = wait(seconds(4), None, seconds(30));
            assert!((seconds(2)..=seconds(4)).contains(&own));
            assert_eq!(wait(seconds(4), Some(seconds(9)), seconds(30)), seconds(9));
            assert_eq!(wait(seconds(4), Some(Duration::MAX), seconds(30)), seconds(30));
            assert!(wait(seconds(4), Some(Duration::ZERO), seconds(30)) >= seconds(2));
            assert!(wait(seconds(99), None, seconds(30)) <= seconds(30));
        }
    }
}
