//! The way to one place: its queue on disk, and the task that delivers.

use super::place::{Client, Place};
use crate::export::push::reply::Reply;
use crate::export::push::sender::wait;
use agent_notify::notification::{Entry, Memo};
use agent_notify::queue::{Limits, Outcome, Pushed, Queue, Waiting};
use agent_store::series::Millis;
use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

/// An attempt that has begun when the agent ends may take this long.
const LAST: Duration = Duration::from_secs(3);
/// So many attempts as `rate_limit` says are made in it.
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// What became of the notifications of a place.
#[derive(Debug, Default)]
pub struct Stats {
    /// Made, those found in the queue at the start among them.
    pub made: AtomicU64,
    /// Delivered.
    pub delivered: AtomicU64,
    /// Given up: [`Outcome::QueueFull`], [`Outcome::Refused`], [`Outcome::Expired`]; or [`Outcome::Superseded`].
    pub dropped: [AtomicU64; 4],
    /// In the queue.
    pub in_flight: AtomicU64,
    /// Since when something waits, ms since 1970; 0 = nothing does. Not when the first of the queue was made: a place that is dead
    /// and told often has none that is older than `stale_after`.
    pub oldest: AtomicI64,
    /// Attempts that failed and were repeated.
    pub retries: AtomicU64,
    /// Writes to the queue's file that failed.
    pub write_errors: AtomicU64,
}

/// The way to a place.
pub struct Lane {
    /// The place.
    pub place: Place,
    queue: Mutex<Queue>,
    changed: Notify,
    /// What became of it all.
    pub stats: Stats,
}

impl Lane {
    /// Opens the queue. `place_at` is where the place stands in the lists of receivers and integrations. Answers as well what was
    /// given up, now or before a restart, and is due again.
    pub fn open(
        place: Place,
        path: &Path,
        limits: Limits,
        place_at: (usize, usize),
    ) -> Result<(Self, Vec<Entry>), String> {
        let (queue, found) = Queue::open(path, limits, place_at)?;
        if found.lost > 0 {
            tracing::warn!(
                "{}: {} bytes could not be read and are gone",
                path.display(),
                found.lost
            );
        }
        let lane = Self {
            place,
            queue: Mutex::new(queue),
            changed: Notify::new(),
            stats: Stats::default(),
        };
        let gone = found.dropped.len() as u64;
        let waiting = lane.lock().len() as u64;
        lane.stats.made.store(waiting + gone, Relaxed);
        lane.count(Outcome::QueueFull, gone);
        lane.measure(&lane.lock());
        if waiting > 0 {
            tracing::info!("{}: {waiting} notifications wait from before", lane.place.name());
        }
        let dropped = found.dropped.into_iter().map(|one| one.entry);
        Ok((lane, found.given_up.into_iter().chain(dropped).collect()))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn measure(&self, queue: &Queue) {
        self.stats.in_flight.store(queue.len() as u64, Relaxed);
        self.stats.oldest.store(queue.oldest().unwrap_or(0), Relaxed);
    }

    fn count(&self, outcome: Outcome, times: u64) {
        let stats = &self.stats;
        let [full, refused, expired, superseded] = &stats.dropped;
        let counter = match outcome {
            Outcome::Delivered => &stats.delivered,
            Outcome::QueueFull => full,
            Outcome::Refused => refused,
            Outcome::Expired => expired,
            Outcome::Superseded => superseded,
        };
        counter.fetch_add(times, Relaxed);
    }

    fn written(&self, result: Result<(), String>) {
        if let Err(error) = result {
            self.stats.write_errors.fetch_add(1, Relaxed);
            tracing::error!(
                "{}: {error}; until it can be written notifications are in memory only",
                self.place.name()
            );
        }
    }

    /// What was remembered of what the place was told.
    pub fn memos(&self) -> Vec<Memo> {
        self.lock().memos().cloned().collect()
    }

    /// Puts something into the queue. Answers what had to go for it. Blocks until it is safe on disk.
    pub fn push(&self, entry: Entry) -> Vec<Entry> {
        let mut queue = self.lock();
        let Pushed {
            dropped,
            superseded,
            written,
        } = queue.push(entry);
        self.stats.made.fetch_add(1, Relaxed);
        self.count(Outcome::QueueFull, dropped.len() as u64);
        self.count(Outcome::Superseded, superseded);
        self.measure(&queue);
        drop(queue);
        self.written(written);
        self.changed.notify_one();
        dropped.into_iter().map(|one| one.entry).collect()
    }

    /// Remembers something else of a group. Blocks.
    pub fn remember(&self, memo: Memo) {
        let result = self.lock().remember(memo);
        self.written(result);
    }

    /// Of one that was given up nothing is to be remembered.
    pub fn settle(&self, entry: &Entry) {
        self.lock().settle(entry);
    }

    fn done(&self, number: u64, outcome: Outcome) {
        let mut queue = self.lock();
        let (was_there, result) = queue.done(number, outcome);
        self.measure(&queue);
        drop(queue);
        self.written(result);
        if was_there {
            self.count(outcome, 1);
        }
    }

    /// Does something with the queue where it may block.
    async fn aside<T: Send + 'static>(
        self: &Arc<Self>,
        what: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Option<T> {
        let lane = self.clone();
        tokio::task::spawn_blocking(move || what(&lane)).await.ok()
    }

    /// Delivers until it is over. What cannot be delivered is given back to `failed`.
    pub async fn run(self: Arc<Self>, failed: mpsc::UnboundedSender<Entry>, mut over: watch::Receiver<bool>) {
        let mut task = Task {
            client: None,
            backoff: self.place.retry.initial,
            attempts: VecDeque::new(),
            failing: false,
            expiring: false,
            aside: BTreeSet::new(),
        };
        loop {
            if *over.borrow() {
                return;
            }
            let aside = task.aside.clone();
            let front = self.aside(move |lane| lane.lock().take(&aside)).await.flatten();
            let Some(waiting) = front else {
                tokio::select! {
                    _ = over.wait_for(|over| *over) => return,
                    () = self.changed.notified() => continue,
                }
            };
            let (number, most) = (waiting.number, self.place.retry.max_elapsed);
            // From before a restart, or behind others for so long: what it says is no news any more. What still fires is told anew.
            if age_of(&waiting) > most {
                task.expire(&self.place, most);
                self.aside(move |lane| lane.done(number, Outcome::Expired)).await;
                let _ = failed.send(waiting.entry);
                continue;
            }
            if let Some(pause) = task.pause(self.place.rate_limit) {
                // Until it is tried a later one may take its place.
                self.aside(|lane| lane.lock().put_back()).await;
                if rest(pause, &mut over).await {
                    return;
                }
                continue;
            }
            let reply = tokio::select! {
                reply = task.attempt(&self.place, &waiting) => reply,
                () = async { let _ = over.wait_for(|over| *over).await; sleep(LAST).await } => return,
            };
            match &reply {
                // One that the place never takes must not hold up those of other groups: they are tried before it is again.
                Reply::Retry { .. } => {
                    let group = waiting.entry.notification.group_key.clone();
                    if !task.aside.insert(group.clone()) {
                        task.aside = BTreeSet::from([group]);
                    }
                }
                _ => task.aside.clear(),
            }
            match reply {
                Reply::Accepted { .. } => {
                    self.aside(move |lane| lane.done(number, Outcome::Delivered))
                        .await;
                    task.backoff = self.place.retry.initial;
                    task.expiring = false;
                    if std::mem::take(&mut task.failing) {
                        tracing::info!("{}: it accepts again", self.place.name());
                    }
                }
                Reply::Permanent { cause } => {
                    task.give_up(&self.place, &cause, "refused");
                    self.aside(move |lane| lane.done(number, Outcome::Refused)).await;
                    let _ = failed.send(waiting.entry);
                }
                Reply::Retry { after, cause } => {
                    let pause = wait(task.backoff, after, self.place.retry.max);
                    if age_of(&waiting) + pause > most {
                        task.give_up(&self.place, &cause, "given up");
                        self.aside(move |lane| lane.done(number, Outcome::Expired)).await;
                        let _ = failed.send(waiting.entry);
                        continue;
                    }
                    self.aside(|lane| lane.lock().put_back()).await;
                    task.give_up(&self.place, &cause, "trying again");
                    self.stats.retries.fetch_add(1, Relaxed);
                    task.backoff = (task.backoff * 2).min(self.place.retry.max);
                    let ended = match after {
                        Some(_) => rest(pause, &mut over).await,
                        None => self.rest_but(pause, &task.aside, &mut over).await,
                    };
                    if ended {
                        return;
                    }
                }
            }
        }
    }

    /// Waits, but not once something has come of a group other than these; true if it is over.
    async fn rest_but(
        self: &Arc<Self>,
        pause: Duration,
        groups: &BTreeSet<String>,
        over: &mut watch::Receiver<bool>,
    ) -> bool {
        let rest = rest(pause, over);
        tokio::pin!(rest);
        loop {
            tokio::select! {
                ended = &mut rest => return ended,
                () = self.changed.notified() => {}
            }
            let groups = groups.clone();
            let first = self.aside(move |lane| {
                let queue = lane.lock();
                let first = queue.first_but(&groups);
                first.is_some_and(|one| !groups.contains(&one.entry.notification.group_key))
            });
            if first.await == Some(true) {
                return false;
            }
        }
    }
}

/// How long ago it was made.
fn age_of(waiting: &Waiting) -> Duration {
    let age = crate::memory::now() - waiting.entry.notification.at;
    Duration::from_millis(age.max(0).unsigned_abs())
}

/// Waits; true if it is over.
async fn rest(pause: Duration, over: &mut watch::Receiver<bool>) -> bool {
    tokio::select! {
        _ = over.wait_for(|over| *over) => true,
        () = sleep(pause) => false,
    }
}

/// What the task of a lane knows from one attempt to the next.
struct Task {
    /// `None` after a failure.
    client: Option<Client>,
    backoff: Duration,
    /// When the attempts of the latest minute were.
    attempts: VecDeque<Instant>,
    /// The last attempt failed, and the log has said so.
    failing: bool,
    /// One has waited for too long since the last was accepted, and the log has said so.
    expiring: bool,
    /// Groups of which an attempt failed since one was accepted.
    aside: BTreeSet<String>,
}

impl Task {
    /// How long the next attempt has to wait so that there are no more than `most` in a minute.
    fn pause(&mut self, most: usize) -> Option<Duration> {
        while self.attempts.front().is_some_and(|at| at.elapsed() >= MINUTE) {
            self.attempts.pop_front();
        }
        let first = self.attempts.front().filter(|_| self.attempts.len() >= most)?;
        Some(MINUTE.saturating_sub(first.elapsed()))
    }

    async fn attempt(&mut self, place: &Place, waiting: &Waiting) -> Reply {
        self.attempts.push_back(Instant::now());
        let client = match self.client.take().map_or_else(|| place.client(), Ok) {
            Ok(client) => client,
            Err(error) => return Reply::retry(format!("{error:#}")),
        };
        let told = timeout(place.timeout, place.tell(&client, &waiting.entry.notification)).await;
        let reply = told.unwrap_or_else(|_| {
            Reply::retry(format!(
                "no reply within {}",
                humantime::format_duration(place.timeout)
            ))
        });
        if let Reply::Accepted { .. } = reply {
            self.client = Some(client);
        }
        reply
    }

    /// What has waited for too long is no failure of the place, which may not have been asked.
    fn expire(&mut self, place: &Place, most: Duration) {
        let (name, most) = (place.name(), humantime::format_duration(most));
        if !std::mem::replace(&mut self.expiring, true) {
            tracing::warn!(
                "{name}: a notification has waited for more than {most} and is given up; further ones are counted, not logged, \
                 until one is accepted; what still fires is told anew"
            );
        }
    }

    /// One line at the first failure, not one each time.
    fn give_up(&mut self, place: &Place, cause: &str, what: &str) {
        let name = place.name();
        if std::mem::replace(&mut self.failing, true) {
            tracing::debug!(cause, what, "{name}: attempt failed");
        } else {
            tracing::warn!(
                cause,
                what,
                "{name}: attempt failed; further failures are counted, not logged, until one is accepted"
            );
        }
    }
}

/// For how long something waits, in seconds.
pub fn age(stats: &Stats, now: Millis) -> f64 {
    match stats.oldest.load(Relaxed) {
        0 => 0.0,
        at => (now - at).max(0) as f64 / 1000.0,
    }
}
