//! What every exporter that pushes shares: a bounded queue, a sender that tries again, counters of what became of it all.
//!
//! A timer encodes the latest numbers and puts them into the queue; a sender takes them from there. Whatever the receiver
//! does holds up the sender only. Of every data point it is counted that it was to be sent, and then what became of it.

pub mod delivery;
pub mod http;
pub mod queue;
pub mod reply;
pub mod sender;
pub mod settings;
pub mod stats;
pub mod tls;

pub use stats::{METRICS, Stats, StatsCollect};

use anyhow::Result;
use bytes::Bytes;
use delivery::Delivery;
use queue::Queue;
use reply::Reply;
use sender::Sender;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// For what is left at shutdown.
pub(super) const FLUSH: Duration = Duration::from_secs(5);

/// One request.
#[derive(Clone, Debug)]
pub struct Part {
    /// Its body, encoded.
    pub body: Bytes,
    /// Data points in it.
    pub points: u64,
}

/// One connection to a receiver.
pub trait Client {
    /// Sends one request.
    fn send(&self, part: &Part) -> impl Future<Output = Reply> + Send;
}

/// A receiver, as it is configured.
pub trait Target {
    /// How it is spoken to.
    type Client: Client;
    /// Reads the files; does not connect. Must be called in a tokio runtime, after rustls has its provider.
    fn client(&self) -> Result<Self::Client>;
}

/// The way of data points to their receiver.
pub struct Lane<T: Target> {
    delivery: Delivery,
    target: T,
    client: T::Client,
    stats: Arc<Stats>,
}

impl<T: Target> Lane<T> {
    /// Reads the files that the settings name, so that what is wrong with them is known at once.
    pub fn new(delivery: Delivery, target: T) -> Result<Self> {
        let client = target.client()?;
        Ok(Self {
            delivery,
            target,
            client,
            stats: Arc::default(),
        })
    }

    /// Where it counts.
    pub fn stats(&self) -> Arc<Stats> {
        self.stats.clone()
    }

    /// Sends what `feed` puts into the queue; ends within five seconds after it.
    pub async fn run(self, feed: impl AsyncFnOnce(&Queue)) {
        let queue = Queue::new(self.delivery.queue_size, self.stats.clone());
        let (hurry, hurried) = watch::channel(false);
        let mut sender = Sender::new(
            &self.delivery,
            &self.target,
            Some(self.client),
            &self.stats,
            hurried,
        );
        {
            let sending = sender.run(&queue);
            let feeding = async {
                feed(&queue).await;
                queue.close();
                hurry.send_replace(true);
                tokio::time::sleep(FLUSH).await;
            };
            // The sender ends first, when all is sent; or the five seconds are over.
            tokio::select! {
                () = sending => {}
                () = feeding => {}
            }
        }
        queue.abandon();
    }
}

/// A timer with a random start: agents that were started together do not send together.
pub fn timer(period: Duration) -> Interval {
    let first = Instant::now() + period.mul_f64(rand::random_range(0.1..=1.0));
    let mut timer = interval_at(first, period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    timer
}
