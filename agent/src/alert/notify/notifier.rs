//! The thread that looks what is due, and what others ask it.

use super::edges::edges;
use super::lane::Lane;
use super::plan::{Plan, millis, plan};
use super::view::{self, Open};
use crate::aggregate::Snapshot;
use crate::alert::Rules;
use crate::alert::files;
use crate::alert::view::{AlertView, GroupView, RuleView};
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::memory::now;
use agent_notify::incident::Edges;
use agent_notify::matcher::{self, Matcher};
use agent_notify::notification::Entry;
use agent_notify::queue::Limits;
use agent_notify::silence::NotExpired;
use agent_notify::{Alert, Dispatcher, Incidents, Silence, Silences};
use agent_rules::alert::ALERTNAME;
use agent_store::labels::Labels;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};

/// It looks at least so often.
const LONGEST: Duration = Duration::from_secs(60);
/// So long after a restart what is pending may be what fired before: an hour is the longest `for` that is shipped.
const SPARED: i64 = 65 * 60 * 1000;

/// What fires, who was told, what is silenced.
struct State {
    dispatcher: Dispatcher,
    silences: Silences,
    /// When a file of rules was last known to be wrong; 0 = never.
    unread_at: i64,
}

/// All of it.
pub struct Notifier {
    state: Mutex<State>,
    /// Of each receiver its places.
    lanes: Vec<Vec<Arc<Lane>>>,
    /// Something has changed that is not an alert.
    wake: Notify,
    failed: Mutex<mpsc::UnboundedReceiver<Entry>>,
    give_back: mpsc::UnboundedSender<Entry>,
    external_labels: Labels,
    external_url: String,
    /// Held as long as the directory is.
    _lock: Option<File>,
    /// Silences that are active.
    pub(super) active_silences: AtomicU64,
    /// Incidents that are not over, the latest last.
    pub(super) open: Mutex<Vec<Open>>,
    /// Why nobody is told of alerts that fire, by their labels.
    muted: Mutex<HashMap<Labels, &'static str>>,
}

impl Notifier {
    /// Opens the queues. Without receivers there are only incidents, in memory.
    pub fn open(config: &Config) -> Result<Self> {
        let Plan {
            routes,
            receivers,
            places,
            inhibitions,
            settings,
        } = plan(config).map_err(|(path, why)| Error::usage(format_args!("alerting.{path}: {why}")))?;
        let window = millis(config.alerting.incident_window);
        let directory = &config.alerting.directory;
        let has_receivers = !receivers.is_empty();
        let lock = has_receivers.then(|| lock(directory)).transpose()?;
        let complain = |wrong: Option<String>| {
            if let Some(wrong) = wrong {
                tracing::error!("{wrong}");
            }
        };
        let (silences, incidents) = if has_receivers {
            let (silences, wrong) = Silences::open(directory.join("silences.json"));
            complain(wrong);
            let (incidents, wrong) = Incidents::open(window, directory.join("incidents.json"));
            complain(wrong);
            (silences, incidents)
        } else {
            (Silences::default(), Incidents::new(window))
        };
        let mut dispatcher = Dispatcher::new(routes, receivers, inhibitions, settings, incidents);
        let (mut lanes, mut memos, mut used) = (Vec::new(), Vec::new(), BTreeSet::new());
        let (give_back, failed) = mpsc::unbounded_channel();
        for (receiver, places) in places.into_iter().enumerate() {
            let mut own = Vec::new();
            for (integration, place) in places.into_iter().enumerate() {
                let name = file_name(&place.name());
                let path = directory.join(&name);
                let limits = Limits {
                    bytes: config.alerting.queue_size.get(),
                    stale: millis(config.alerting.stale_after),
                };
                let opened = Lane::open(place, &path, limits, (receiver, integration));
                let (lane, given_up) = opened.map_err(Error::new)?;
                for entry in given_up {
                    let _ = give_back.send(Dispatcher::recall(entry, now()));
                }
                memos.extend(lane.memos().into_iter().map(|memo| (receiver, integration, memo)));
                used.insert(name);
                own.push(Arc::new(lane));
            }
            lanes.push(own);
        }
        if has_receivers {
            unused(directory, &used);
        }
        let orphans = dispatcher.restore(now(), memos);
        let left: usize = orphans.iter().map(|memo| memo.open.len()).sum();
        if left > 0 {
            tracing::warn!(
                "alerting.route: {left} alerts that were told to fire are in groups that no route makes any more: \
                 their end will not be told"
            );
        }
        Ok(Self {
            state: Mutex::new(State {
                dispatcher,
                silences,
                unread_at: 0,
            }),
            lanes,
            wake: Notify::new(),
            failed: Mutex::new(failed),
            give_back,
            external_labels: files::external_labels(config),
            external_url: files::external_url(config),
            _lock: lock,
            active_silences: AtomicU64::new(0),
            open: Mutex::default(),
            muted: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All places.
    pub fn lanes(&self) -> impl Iterator<Item = &Arc<Lane>> {
        self.lanes.iter().flatten()
    }

    /// Starts the tasks that deliver.
    pub fn deliver(&self, over: &watch::Receiver<bool>) -> Vec<tokio::task::JoinHandle<()>> {
        let start = |lane: &Arc<Lane>| tokio::spawn(lane.clone().run(self.give_back.clone(), over.clone()));
        self.lanes().map(start).collect()
    }

    /// Looks after each evaluation what is due, until it is over. Blocks: for a thread that may.
    pub fn run(
        &self,
        rules: &Rules,
        snapshots: &watch::Receiver<Arc<Snapshot>>,
        mut over: watch::Receiver<bool>,
        runtime: &tokio::runtime::Handle,
    ) {
        let mut evaluated = rules.evaluated();
        loop {
            evaluated.mark_unchanged();
            let pause = self.step(rules, snapshots);
            let ended = runtime.block_on(async {
                tokio::select! {
                    _ = over.wait_for(|over| *over) => true,
                    changed = evaluated.changed() => changed.is_err(),
                    () = self.wake.notified() => false,
                    () = tokio::time::sleep(pause) => false,
                }
            });
            if ended {
                return;
            }
        }
    }

    /// One look; answers when the next is due.
    fn step(&self, rules: &Rules, snapshots: &watch::Receiver<Arc<Snapshot>>) -> Duration {
        // Before the groups: of a file that can be used by now there are rules then.
        let unread = rules.invalid.load(Relaxed) > 0;
        self.hear(now(), &rules.view(), unread, || {
            // The collector waits for who borrows.
            let snapshot = snapshots.borrow().clone();
            edges(&snapshot, &self.external_labels)
        })
    }

    /// What is due now, by what the rules say. `unread` says that there are files of which no rule is known, or not all.
    pub(super) fn hear(
        &self,
        now: i64,
        groups: &[Arc<GroupView>],
        unread: bool,
        edges: impl FnOnce() -> Edges,
    ) -> Duration {
        let told = view::told(groups);
        let alerts: Vec<Alert> = told
            .iter()
            .map(|told| view::alert(told, &self.external_labels, &self.external_url))
            .collect();
        let all = groups.iter().flat_map(|group| group.alerts());
        let mut state = self.state();
        if unread {
            state.unread_at = now;
        }
        // What goes to and fro without firing is over at last.
        let is_soon = now - state.dispatcher.restored_at().max(state.unread_at) <= SPARED;
        let pending = all.filter(|alert| is_soon && alert.state == agent_rules::State::Pending.name());
        let pending: BTreeSet<Labels> = pending.map(|alert| self.labels(alert)).collect();
        let rules: Vec<&RuleView> = groups.iter().flat_map(|group| &group.rules).collect();
        let failing = rules.iter().filter(|rule| !rule.last_error.is_empty());
        let failing: Vec<&RuleView> = failing.copied().collect();
        // Rules may share a name: those of the labels that are no templates tell them apart.
        let is_of = |labels: &Labels, rule: &RuleView| {
            let mut own = rule.labels.iter().filter(|(_, value)| !value.contains("{{"));
            labels.get(ALERTNAME) == rule.name && own.all(|(label, value)| labels.get(label) == value)
        };
        state.dispatcher.spare(now, |labels, seen| {
            pending.contains(labels)
                || failing.iter().any(|rule| is_of(labels, rule))
                // Told before a restart, and its rule may be in the file that cannot be read.
                || unread && !seen && !rules.iter().any(|rule| is_of(labels, rule))
        });
        drop(state);
        self.look(now, &alerts, edges)
    }

    /// Labels of an alert, as they are told.
    fn labels(&self, alert: &AlertView) -> Labels {
        view::labels(&Labels::new(alert.labels.clone()), &self.external_labels)
    }

    /// What is due now, of these alerts.
    pub(super) fn look(&self, now: i64, alerts: &[Alert], edges: impl FnOnce() -> Edges) -> Duration {
        let failed: Vec<Entry> = {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            std::iter::from_fn(|| failed.try_recv().ok()).collect()
        };
        let mut state = self.state();
        let State {
            dispatcher, silences, ..
        } = &mut *state;
        let mut memos = Vec::new();
        for entry in failed {
            match dispatcher.failed(&entry, now) {
                Some(memo) => memos.push((entry.receiver, entry.integration, memo)),
                None => {
                    let lane = self.lane(entry.receiver, entry.integration);
                    lane.into_iter().for_each(|lane| lane.settle(&entry));
                }
            }
        }
        let incidents = dispatcher.incidents();
        let mut firing = alerts.iter().filter(|alert| alert.is_firing());
        let edges = match firing.any(|alert| incidents.of(alert.fingerprint()).is_empty()) {
            true => edges(),
            false => Edges::default(),
        };
        dispatcher.observe(now, alerts, &edges);
        let entries = dispatcher.due(now, silences);
        memos.extend(dispatcher.quiet());
        if let Err(error) = dispatcher.incidents().save() {
            tracing::error!("{error}");
        }
        let open = dispatcher.incidents().all().iter().filter_map(Open::of).collect();
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = open;
        let active = silences
            .all()
            .iter()
            .filter(|silence| silence.state(now) == "active");
        self.active_silences.store(active.count() as u64, Relaxed);
        let next = dispatcher.next();
        self.note_muted(&state, now);
        drop(state);
        for (receiver, integration, memo) in memos {
            if let Some(lane) = self.lane(receiver, integration) {
                lane.remember(memo);
            }
        }
        for entry in entries {
            let lane = self.lane(entry.receiver, entry.integration);
            for dropped in lane.map(|lane| lane.push(entry)).unwrap_or_default() {
                let _ = self.give_back.send(dropped);
            }
        }
        let pause = next.map_or(LONGEST, |next| {
            Duration::from_millis((next - now).max(10).unsigned_abs())
        });
        pause.min(LONGEST)
    }

    fn lane(&self, receiver: usize, integration: usize) -> Option<&Arc<Lane>> {
        self.lanes.get(receiver)?.get(integration)
    }

    /// The silences that pass a filter, as Alertmanager's API has them. Blocks.
    pub fn silences(&self, filter: &[Matcher]) -> Vec<Value> {
        let (state, now) = (self.state(), now());
        let all = state.silences.all().iter();
        all.filter(|silence| matcher::passes(&silence.matchers, filter))
            .map(|silence| view::silence(silence, now))
            .collect()
    }

    /// Adds a silence; if it is not a new one, it changes the one of its id, and `None` says that there is none. Blocks until it
    /// is safe on disk.
    pub fn add(&self, silence: Silence, new: bool) -> Option<std::result::Result<(), String>> {
        if self.lanes.is_empty() {
            let why = "nobody is told of alerts here: alerting.receivers is empty";
            return Some(Err(why.to_owned()));
        }
        let mut state = self.state();
        let added = match new {
            true => Some(state.silences.add(silence, now())),
            false => state.silences.change(silence, now()),
        };
        self.note_muted(&state, now());
        drop(state);
        self.wake.notify_one();
        added
    }

    /// Ends a silence. Blocks.
    pub fn expire(&self, id: &str) -> std::result::Result<(), NotExpired> {
        let mut state = self.state();
        state.silences.expire(id, now())?;
        self.note_muted(&state, now());
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// The incidents, the latest first. Blocks.
    pub fn incidents(&self) -> Vec<Value> {
        let mut state = self.state();
        let all = state.dispatcher.incidents().all();
        all.iter().rev().map(view::incident).collect()
    }

    /// Takes note why nobody is told of alerts that fire: who asks that need not wait for a disk.
    fn note_muted(&self, state: &State, now: i64) {
        let states = state.dispatcher.states(now, &state.silences).into_iter();
        let muted = states.filter(|(_, why)| !why.is_empty());
        let muted = muted.map(|(alert, why)| (alert.labels.clone(), why)).collect();
        *self.muted.lock().unwrap_or_else(PoisonError::into_inner) = muted;
    }

    /// All groups, with why nobody is told of alerts that fire.
    pub fn view(&self, rules: &Rules) -> Vec<GroupView> {
        let groups = rules.view();
        let mut groups: Vec<GroupView> = groups.iter().map(|group| GroupView::clone(group)).collect();
        let muted = self.muted.lock().unwrap_or_else(PoisonError::into_inner);
        for group in &mut groups {
            group.explain_silence(|alert| muted.get(&self.labels(alert)).copied());
        }
        groups
    }
}

/// Makes the directory and takes it.
fn lock(directory: &Path) -> Result<File> {
    let named = format!("alerting.directory {}", directory.display());
    fs::create_dir_all(directory).context(&named)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(directory.join("lock"))
        .context(&named)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::new(format_args!(
            "{named}: another agent has it; give each its own"
        ))),
        Err(fs::TryLockError::Error(error)) => Err(error).context(&named),
    }
}

/// The name of a queue's file: no two places have the same.
fn file_name(place: &str) -> String {
    let mut name = String::new();
    for byte in place.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_".contains(&byte) {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02x}"));
        }
    }
    format!("{name}.queue")
}

/// Says which queues nobody delivers any more: the receiver has another name now, or is gone.
fn unused(directory: &Path, used: &BTreeSet<String>) {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    for name in names.filter(|name| name.ends_with(".queue") && !used.contains(name)) {
        tracing::warn!(
            "{}: no receiver of this name is left; what waits in it is not delivered. Remove it, or name a receiver so",
            directory.join(name).display()
        );
    }
}
