//! Exports that wait. Full means that the oldest goes: what is new says more.

use super::Part;
use super::stats::{Outcome, Reason, Stats};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The requests of one export.
pub type Batch = Vec<Part>;

/// A bounded queue with one consumer. Nobody ever waits to put something in.
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
    size: usize,
    stats: Arc<Stats>,
}

#[derive(Default)]
struct State {
    batches: VecDeque<Batch>,
    closed: bool,
}

impl Queue {
    /// For `size` batches.
    pub fn new(size: usize, stats: Arc<Stats>) -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
            size,
            stats,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a batch at the end; drops and counts the first if there is no room.
    pub fn push(&self, batch: Batch) {
        self.stats.begin(points(&batch));
        let mut state = self.lock();
        if state.batches.len() >= self.size
            && let Some(oldest) = state.batches.pop_front()
        {
            self.lost(Reason::QueueFull, &oldest);
        }
        state.batches.push_back(batch);
        self.stats.queue(state.batches.len());
        drop(state);
        self.changed.notify_one();
    }

    /// Takes the first batch; waits for one. `None` when the queue is closed and empty.
    pub async fn pop(&self) -> Option<Batch> {
        loop {
            {
                let mut state = self.lock();
                if let Some(batch) = state.batches.pop_front() {
                    self.stats.queue(state.batches.len());
                    return Some(batch);
                }
                if state.closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    /// There will be no more.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Gives up what is left.
    pub fn abandon(&self) {
        let mut state = self.lock();
        for batch in state.batches.drain(..) {
            self.lost(Reason::Shutdown, &batch);
        }
        self.stats.queue(0);
    }

    fn lost(&self, reason: Reason, batch: &Batch) {
        self.stats.batch(Outcome::Dropped);
        self.stats.dropped(reason, points(batch));
        self.stats.end(points(batch));
    }
}

fn points(batch: &Batch) -> u64 {
    batch.iter().map(|p| p.points).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(points: u64) -> Batch {
        vec![Part {
            body: bytes::Bytes::new(),
            points,
        }]
    }

    #[tokio::test]
    async fn the_oldest_makes_room_and_is_counted() {
        let stats = Arc::new(Stats::default());
        let queue = Queue::new(2, stats.clone());
        for points in [1, 10, 100, 1_000] {
            queue.push(batch(points));
        }
        assert_eq!(
            (
                stats.total_dropped(Reason::QueueFull),
                stats.batches(Outcome::Dropped)
            ),
            (11, 2)
        );
        assert_eq!(queue.pop().await.unwrap()[0].points, 100);
        queue.close();
        assert_eq!(queue.pop().await.unwrap()[0].points, 1_000);
        assert!(queue.pop().await.is_none());
        queue.push(batch(5));
        queue.abandon();
        assert_eq!(stats.total_dropped(Reason::Shutdown), 5);
        // Who popped the others has not said what became of them.
        assert_eq!((stats.total_begun(), stats.total_in_flight()), (1_116, 1_100));
    }
}
