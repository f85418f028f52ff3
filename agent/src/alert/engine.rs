//! Evaluates the groups of rules when they are due.

use super::roles::Roles;
use super::view::GroupView;
use super::{files, reload};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::memory::Memory;
use crate::record::Flight;
use crate::score::{Anomalies, slo};
use agent_rules::{Environment, Group, Health, Results, Settings, State};
use agent_store::promql::Options;
use agent_store::series::{Bounds, Millis};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Instant;
use tokio::sync::watch;

/// What the rules have done.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub evaluations: AtomicU64,
    pub failures: AtomicU64,
    pub nanos: AtomicU64,
    pub missed: AtomicU64,
    /// Times that the files were read again, and all could be used; or not all.
    pub reloads: AtomicU64,
    pub failed_reloads: AtomicU64,
}

/// The rules of the agent.
pub struct Rules {
    memory: Arc<Memory>,
    settings: Settings,
    interval: Millis,
    /// For the thread that evaluates them.
    groups: Mutex<Vec<Group>>,
    /// Of what is not healthy; taken while `groups` is held only, so nobody ever waits for it.
    roles: Mutex<Roles>,
    /// What is told of each group: who asks does not wait for an evaluation.
    published: RwLock<Vec<Arc<GroupView>>>,
    /// Counts the evaluations of groups, for who waits for one.
    evaluated: watch::Sender<u64>,
    pub(super) counters: Counters,
    /// Of the configuration: files, and directories of them.
    files: Vec<PathBuf>,
    /// How long the latest round of evaluations took, in milliseconds.
    pub(super) took: AtomicU64,
    /// How many of the groups, the first ones, are the agent's own and not of files.
    own: usize,
    /// What is told when an alert begins to fire.
    flight: Option<Arc<Flight>>,
    /// What says why there is an anomaly, if any are looked for.
    anomalies: OnceLock<Arc<Anomalies>>,
    /// Files of objectives that could not be used; they are not read again.
    left_out: u64,
    /// Files that could not be used.
    pub(super) invalid: AtomicU64,
}

impl Rules {
    /// Reads the files of the configuration, and makes the rules of health and of the objectives; `None` without any, or if
    /// nothing is remembered. A flight recorder is told when an alert begins to fire.
    pub fn open(
        config: &Config,
        memory: Option<&Arc<Memory>>,
        flight: Option<Arc<Flight>>,
    ) -> Option<Arc<Self>> {
        let Some(memory) = memory else {
            for (key, given) in [
                ("rules.files", !config.rules.files.is_empty()),
                ("slos", !config.slos.is_empty()),
                ("slo_files", !config.slo_files.is_empty()),
            ] {
                if given {
                    tracing::warn!(
                        "{key}: nothing is remembered, so no rule is evaluated; set store.kind to auto, memory or disk"
                    );
                }
            }
            return None;
        };
        let (slos, wrong) = slo::all(config);
        if config.rules.files.is_empty() && !config.health.enabled && slos.is_empty() && wrong.is_empty() {
            return None;
        }
        let mut groups = Vec::new();
        if config.health.enabled {
            let own =
                agent_rules::file::parse("health", &agent_score::health::rules(&config.health.weights()));
            // A test has them all parsed for any weights.
            groups.extend(
                own.unwrap_or_default()
                    .into_iter()
                    .map(|group| Group::new(group, true)),
            );
        }
        let mut left_out = wrong.len() as u64;
        for slo in &slos {
            match agent_slo::rules::parsed(slo) {
                Ok(own) => groups.extend(own.into_iter().map(|group| Group::new(group, true))),
                Err(fault) => {
                    left_out += 1;
                    tracing::error!("slos: {}: {fault}; it is left out", slo.name);
                }
            }
        }
        let own = groups.len();
        let mut invalid = left_out;
        for error in wrong {
            tracing::error!("slo_files: {error}; it is left out");
        }
        for source in reload::read(&config.rules.files) {
            match source.groups {
                Ok(read) => groups.extend(read.into_iter().map(|group| Group::new(group, true))),
                Err(error) => {
                    invalid += 1;
                    tracing::error!("rules.files: {error}; the file is left out");
                }
            }
        }
        let interval = config.rules.interval.get().as_millis() as Millis;
        let published = groups
            .iter()
            .map(|group| Arc::new(GroupView::new(group, interval)));
        Some(Arc::new(Self {
            memory: memory.clone(),
            settings: Settings {
                external_labels: files::external_labels(config),
                external_url: files::external_url(config),
                options: Options::default(),
            },
            interval,
            published: RwLock::new(published.collect()),
            groups: Mutex::new(groups),
            roles: Mutex::default(),
            evaluated: watch::channel(0).0,
            counters: Counters::default(),
            flight,
            anomalies: OnceLock::new(),
            files: config.rules.files.clone(),
            took: AtomicU64::new(0),
            own,
            left_out,
            invalid: AtomicU64::new(invalid),
        }))
    }

    /// From now on alerts of anomalies carry their evidence.
    pub fn explain_by(&self, anomalies: &Arc<Anomalies>) {
        // There is one agent, and it is told once.
        let _ = self.anomalies.set(anomalies.clone());
    }

    /// Reads the files again. Rules that are there as before go on where they were; those of a file that cannot be used any more
    /// stay, which is the error. Waits for the end of an evaluation.
    pub(super) fn reload(&self) -> Result<()> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        // Read only now: of two who ask at once the later must not put back what it had read before.
        let sources = reload::read(&self.files);
        let (at, mut results) = (self.memory.store().last(), Results::default());
        let mut old = std::mem::take(&mut *groups);
        let files = old.split_off(self.own.min(old.len()));
        let (mut new, mut old) = (old, files);
        let mut errors = Vec::new();
        for source in sources {
            match &source.groups {
                Ok(read) => new.extend(read.iter().map(|file| {
                    let mut group = Group::new(file.clone(), true);
                    let is_it = |known: &Group| known.file.file == file.file && known.file.name == file.name;
                    if let Some(place) = old.iter().position(is_it) {
                        group.inherit(old.remove(place), at, &mut results);
                    }
                    group
                })),
                Err(error) => {
                    new.extend(old.extract_if(.., |known| source.has(&known.file)));
                    errors.push(error.to_string());
                }
            }
        }
        old.into_iter().for_each(|group| group.end(at, &mut results));
        let views = new
            .iter()
            .map(|group| Arc::new(GroupView::new(group, self.interval)));
        let views = views.collect();
        *groups = new;
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = views;
        // Under the lock, as an evaluation does: what one keeps after it is not to be overwritten.
        self.memory.keep(results.take());
        drop(groups);
        self.evaluated.send_modify(|count| *count += 1);
        self.invalid.store(self.left_out + errors.len() as u64, Relaxed);
        let counted = match errors.is_empty() {
            true => &self.counters.reloads,
            false => &self.counters.failed_reloads,
        };
        counted.fetch_add(1, Relaxed);
        let Some(first) = errors.first() else {
            tracing::info!(
                "rules.files: read again; the configuration is not, nor other files that it names"
            );
            return Ok(());
        };
        let more = match errors.len() {
            1 => String::new(),
            count => format!(" (and {} other files)", count - 1),
        };
        let error = Error::new(format_args!(
            "rules.files: {first}{more}; what was read of it before stays"
        ));
        tracing::error!("{error}");
        Err(error)
    }

    /// All groups, as they were after their latest evaluation.
    pub fn view(&self) -> Vec<Arc<GroupView>> {
        let published = self.published.read().unwrap_or_else(PoisonError::into_inner);
        published.clone()
    }

    /// Changes with each evaluation.
    pub(super) fn evaluated(&self) -> watch::Receiver<u64> {
        self.evaluated.subscribe()
    }

    /// Whether any rule is an alert.
    pub fn has_alerts(&self) -> bool {
        let groups = self.view();
        let mut rules = groups.iter().flat_map(|group| &group.rules);
        rules.any(|rule| rule.alerting.is_some())
    }

    /// Evaluates what is due each time that a snapshot was stored, until there are no more. Blocks: for a thread that may.
    pub fn run(&self, mut stored: watch::Receiver<Millis>, runtime: &tokio::runtime::Handle) {
        while runtime.block_on(stored.changed()).is_ok() {
            let at = *stored.borrow_and_update();
            self.evaluate(at);
        }
    }

    /// Evaluates the groups that are due.
    pub fn evaluate(&self, at: Millis) {
        let begin = Instant::now();
        let before = self.took.load(Relaxed);
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let (memory, timeout) = (self.memory.clone(), self.memory.timeout());
        let bounds = move || -> Box<dyn Bounds> { Box::new(memory.limits(timeout)) };
        let environment = Environment {
            source: self.memory.store(),
            bounds: &bounds,
            settings: &self.settings,
        };
        let mut results = Results::default();
        for (place, group) in groups.iter_mut().enumerate() {
            let Some(slots) = self.slots(group, at) else {
                continue;
            };
            let missed = left_out(slots - 1, before, self.interval_of(group));
            self.counters.missed.fetch_add(missed, Relaxed);
            group.evaluate(at, &environment, &mut results);
            self.count(group);
            if Roles::follow(group) {
                let mut roles = self.roles.lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(why) = roles.tell(at, &environment, &mut results) {
                    self.counters.failures.fetch_add(1, Relaxed);
                    tracing::debug!("health: cause and symptom: {why}");
                }
            }
            self.fly(group, at);
            let mut view = GroupView::new(group, self.interval);
            if let Some(anomalies) = self.anomalies.get() {
                view.explain(&anomalies.known());
            }
            let view = Arc::new(view);
            let mut published = self.published.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(old) = published.get_mut(place) {
                *old = view;
            }
            drop(published);
            self.evaluated.send_modify(|count| *count += 1);
        }
        self.memory.keep(results.take());
        let took = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.took.store(took, Relaxed);
    }

    /// Milliseconds between evaluations of a group.
    fn interval_of(&self, group: &Group) -> Millis {
        group.file.interval.unwrap_or(self.interval).max(1000)
    }

    /// How many evaluations of a group fall between its latest and now; `None` if it is not due. Groups are spread over their
    /// interval by their names.
    fn slots(&self, group: &Group, at: Millis) -> Option<u64> {
        let interval = self.interval_of(group);
        let mut hasher = DefaultHasher::new();
        (&group.file.file, &group.file.name).hash(&mut hasher);
        let offset = (hasher.finish() % interval.unsigned_abs()) as Millis;
        let slot = |at: Millis| (at - offset).div_euclid(interval);
        let Some(last) = group.evaluated_at else {
            return Some(1);
        };
        match slot(at) - slot(last) {
            0 => None,
            // The clock was set back: not to evaluate until it has caught up would let what fires be taken for resolved.
            slots => Some(slots.max(1).unsigned_abs()),
        }
    }

    /// Tells the flight recorder which alerts have begun to fire in this evaluation.
    fn fly(&self, group: &Group, at: Millis) {
        let Some(flight) = &self.flight else { return };
        for rule in &group.rules {
            let mut firing = rule.alerts().filter(|alert| alert.state == State::Firing);
            if firing.any(|alert| alert.fired_at == Some(at)) {
                flight.alert(&rule.file.name);
            }
        }
    }

    fn count(&self, group: &Group) {
        let failed = group
            .rules
            .iter()
            .filter(|rule| matches!(rule.health, Health::Bad(_)));
        let counters = &self.counters;
        counters.evaluations.fetch_add(group.rules.len() as u64, Relaxed);
        counters.failures.fetch_add(failed.count() as u64, Relaxed);
        let nanos = u64::try_from(group.took.as_nanos()).unwrap_or(u64::MAX);
        counters.nanos.fetch_add(nanos, Relaxed);
    }
}

/// Of so many evaluations that were not made since the latest, those that had no time because the round before took so long. A machine
/// that stood still has nothing to make up for, as for the collector: a pause of half a minute was dozens of evaluations, and an alert.
pub(crate) fn left_out(slots: u64, took: u64, interval: Millis) -> u64 {
    slots.min(took / interval.max(1).unsigned_abs())
}
