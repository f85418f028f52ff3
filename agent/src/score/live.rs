//! Watches series for anomalies, behind the store: each time that a snapshot was stored and an evaluation is due.

use super::board::{Board, Boards};
use super::explain::reasons;
use super::sampled;
use crate::alert::left_out;
use crate::config::Config;
use crate::error::{Context as _, Result};
use crate::memory::{self, Memory};
use crate::stacks::Stacks;
use agent_common::profile::sample;
use agent_score::watch::{Anomaly, Cpu, Fault, Round, Span, Watcher};
use agent_store::labels::Labels;
use agent_store::promql::{self, Options, Sample, Value};
use agent_store::series::Millis;
use nix::time::{ClockId, clock_gettime};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;

/// Name of the baselines' file, in the directory of the store, which this agent alone has.
const FILE: &str = "anomaly.baseline";
/// So often they are written; what was learned since is learned anew after a crash.
const SAVED_EVERY: Duration = Duration::from_secs(15 * 60);
/// Once something was told they are written so soon, so that after a crash nothing is told again, or is never over, that was told
/// longer ago; but not so often that writing takes more than one part in so many of the time.
const SAVED_SOON: Duration = Duration::from_secs(60);
const SHARE: u32 = 50;
/// Anomalies of one evaluation that are logged one by one.
const LOGGED: usize = 10;
/// See [`Anomalies::patience`].
const PATIENCE: Duration = Duration::from_secs(5);

/// What the watches have done.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub evaluations: AtomicU64,
    pub failures: AtomicU64,
    pub missed: AtomicU64,
    /// CPU time, of this thread alone.
    pub nanos: AtomicU64,
    /// From the latest sample to its verdict.
    pub lag_micros: AtomicU64,
    pub begun: AtomicU64,
    pub forgotten: AtomicU64,
    /// Baselines that could not be written or read.
    pub unsaved: AtomicU64,
}

/// The watched series of the agent.
pub struct Anomalies {
    memory: Arc<Memory>,
    /// For the thread that evaluates.
    watcher: Mutex<(Watcher, Boards)>,
    /// Who asks does not wait for an evaluation.
    published: RwLock<Arc<Board>>,
    file: Option<PathBuf>,
    interval: Millis,
    /// How long the latest evaluation took, in milliseconds.
    took: AtomicU64,
    /// Time that all queries of one evaluation may take, those for evidence included; what is not done by then has failed.
    patience: Duration,
    /// What it costs is its own, and in no replay.
    pub(super) is_live: bool,
    /// What the CPUs do, of an agent that samples it.
    stacks: OnceLock<Arc<Stacks>>,
    /// Who is told of each one that begins or is over, until there will be no more.
    told: Mutex<Option<UnboundedSender<Arc<Anomaly>>>>,
    pub(super) counters: Counters,
}

/// CPU time of the calling thread, ns.
fn cpu() -> u64 {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

impl Anomalies {
    /// What the configuration asks for; `None` if that is nothing, or if nothing is remembered.
    pub fn open(config: &Config, memory: Option<&Arc<Memory>>, start_unix_nanos: u64) -> Option<Arc<Self>> {
        let settings = &config.anomaly;
        let definitions = settings.definitions();
        if !settings.enabled || definitions.is_empty() {
            return None;
        }
        let Some(memory) = memory else {
            if !settings.watch.is_empty() {
                tracing::warn!(
                    "anomaly.watch: nothing is remembered, so nothing is watched; set store.kind to auto, memory or disk"
                );
            }
            return None;
        };
        let asked = settings.settings();
        let mut watcher = Watcher::new(asked, definitions);
        let counters = Counters::default();
        let file = memory.directory().map(|directory| directory.join(FILE));
        if let Some(file) = &file {
            restore(&mut watcher, file, &counters);
        }
        let mut own = Self::new(memory, watcher, start_unix_nanos, asked.interval);
        (own.file, own.counters) = (file, counters);
        Some(Arc::new(own))
    }

    /// The same for a replay that began then; `baseline` is a file that an agent has written. It saves nothing.
    pub fn replayed(
        config: &Config,
        memory: &Arc<Memory>,
        start_unix_nanos: u64,
        baseline: Option<&Path>,
    ) -> Result<Option<Arc<Self>>> {
        let settings = &config.anomaly;
        let definitions = settings.definitions();
        if !settings.enabled || definitions.is_empty() {
            return Ok(None);
        }
        let asked = settings.settings();
        let mut watcher = Watcher::new(asked, definitions);
        if let Some(file) = baseline {
            let bytes = std::fs::read(file).context(file.display())?;
            watcher.restore(&bytes).context(file.display())?;
        }
        let mut own = Self::new(memory, watcher, start_unix_nanos, asked.interval);
        own.is_live = false;
        // How fast the machine is must not decide what is said.
        own.patience = memory.timeout();
        Ok(Some(Arc::new(own)))
    }

    fn new(memory: &Arc<Memory>, watcher: Watcher, start_unix_nanos: u64, interval: Millis) -> Self {
        let mut boards = Boards::new(start_unix_nanos);
        // What was not over when the agent ended is told until the first evaluation as well: nobody shall take it to be over.
        let board = boards.make(&watcher);
        Self {
            memory: memory.clone(),
            watcher: Mutex::new((watcher, boards)),
            published: RwLock::new(Arc::new(board)),
            file: None,
            interval,
            took: AtomicU64::new(0),
            patience: PATIENCE,
            is_live: true,
            stacks: OnceLock::new(),
            told: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// From now on says with each anomaly what the CPUs did, if that is sampled.
    pub fn explain_by(&self, stacks: &Arc<Stacks>) {
        if stacks.takes(sample::CPU) {
            // There is one agent, and it is told once.
            let _ = self.stacks.set(stacks.clone());
        }
    }

    /// From now on tells of each anomaly that begins or is over, until there will be no more; who asked last is told.
    pub fn follow(&self) -> UnboundedReceiver<Arc<Anomaly>> {
        let (sender, told) = mpsc::unbounded_channel();
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        told
    }

    /// What was said last.
    pub(super) fn board(&self) -> Arc<Board> {
        let published = self.published.read().unwrap_or_else(PoisonError::into_inner);
        published.clone()
    }

    /// Those that are not over.
    pub fn active(&self) -> Vec<Arc<Anomaly>> {
        self.board().active().cloned().collect()
    }

    /// Those that are not over and the latest of those that are, each later than the one before it.
    pub fn known(&self) -> Vec<Arc<Anomaly>> {
        self.board().known().to_vec()
    }

    /// Watches whose latest evaluation failed, and why.
    pub fn failed(&self) -> Vec<(String, String)> {
        self.board().failed.clone()
    }

    /// The answer of the API; `all`: with every series.
    pub fn view(&self, all: bool) -> serde_json::Value {
        self.board().view(self.interval, all)
    }

    /// Evaluates what is due each time that a snapshot was stored, until there are no more; then the baselines are written. Blocks:
    /// for a thread that may.
    pub fn run(&self, mut stored: watch::Receiver<Millis>, runtime: &tokio::runtime::Handle) {
        let (mut saved, mut soon) = (Instant::now(), SAVED_SOON);
        let mut has_told = false;
        while runtime.block_on(stored.changed()).is_ok() {
            let at = *stored.borrow_and_update();
            has_told |= self.look(at);
            let pause = if has_told { soon } else { SAVED_EVERY };
            if saved.elapsed() >= pause {
                let begin = Instant::now();
                has_told &= !self.save();
                soon = SAVED_SOON.max(begin.elapsed() * SHARE).min(SAVED_EVERY);
                saved = Instant::now();
            }
        }
        self.close();
    }

    /// Tells what was not told yet, and that it will tell no more. After a restart those that are not over go on, if what was
    /// learned is on the disk; else they are over.
    fn close(&self) {
        // What waits is told before it is written down that it was.
        self.end(true);
        let is_saved = self.save();
        self.end(is_saved);
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn end(&self, goes_on: bool) {
        let round = {
            let mut guard = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
            let (watcher, boards) = &mut *guard;
            let round = watcher.close(goes_on);
            self.publish(boards.make(watcher));
            round
        };
        self.tell(round);
    }

    /// Tells who listens, and the log. Whether there was anything.
    fn tell(&self, round: Round) -> bool {
        let is_any = !round.begun.is_empty() || !round.ended.is_empty();
        if self.is_live {
            log(&round);
        }
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(told) = &*told {
            for anomaly in round.begun.into_iter().chain(round.ended) {
                // Nobody listens any more: the agent ends.
                let _ = told.send(Arc::new(anomaly));
            }
        }
        is_any
    }

    /// Evaluates if it is time.
    pub fn evaluate(&self, at: Millis) {
        self.look(at);
    }

    /// The same; whether something has begun or is over.
    fn look(&self, at: Millis) -> bool {
        let (begin, began) = (cpu(), Instant::now());
        let mut guard = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        let (watcher, boards) = &mut *guard;
        let Some(missed) = watcher.due(at) else {
            return false;
        };
        let missed = left_out(missed, self.took.load(Relaxed), self.interval);
        self.counters.missed.fetch_add(missed, Relaxed);
        let deadline = Instant::now() + self.patience;
        let mut ask = |query: &str| {
            let left = deadline.saturating_duration_since(Instant::now());
            self.ask(query, at, &self.memory.limits(left))
        };
        let (stacks, mut until) = (self.stacks.get(), None);
        let mut changed = |spans: [Span; 2], subject: &str| {
            let until = *until.get_or_insert_with(|| Instant::now() + sampled::PATIENCE);
            stacks.map_or_else(Vec::new, |stacks| sampled::changed(stacks, spans, subject, until))
        };
        let profile: &mut Cpu = &mut changed;
        // Each verdict at once: the causes of many take longer than a verdict may.
        let round = watcher.verdicts(at, &mut ask);
        self.publish(boards.make(watcher));
        self.count(watcher, &round, at);
        let round = watcher.explain(round, &mut ask, stacks.is_some().then_some(profile));
        if round.is_explained {
            self.publish(boards.make(watcher));
        }
        drop(guard);
        let is_any = self.tell(round);
        self.counters
            .nanos
            .fetch_add(cpu().saturating_sub(begin), Relaxed);
        let took = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.took.store(took, Relaxed);
        is_any
    }

    fn publish(&self, board: Board) {
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(board);
    }

    fn ask(
        &self,
        query: &str,
        at: Millis,
        limits: &memory::Limits,
    ) -> std::result::Result<Vec<(Labels, f64)>, String> {
        let answer = promql::instant(query, at, &Options::default(), self.memory.store(), limits);
        match answer.map_err(|error| error.to_string())?.value {
            Value::Scalar(_, value) => Ok(vec![(Labels::default(), value)]),
            Value::Vector(_, elements) => {
                let all = elements.into_iter().map(|element| match element.sample {
                    Sample::Float(value) => Ok((element.labels, value)),
                    Sample::Histogram(_) => Err("it comes to histograms; take a quantile of them".to_owned()),
                });
                all.collect()
            }
            Value::String(..) | Value::Matrix(_) => Err("it comes to no vector and no scalar".to_owned()),
        }
    }

    fn count(&self, watcher: &Watcher, round: &Round, at: Millis) {
        let counters = &self.counters;
        counters.evaluations.fetch_add(1, Relaxed);
        counters.failures.store(watcher.failures(), Relaxed);
        counters.forgotten.store(watcher.forgotten(), Relaxed);
        counters.begun.fetch_add(round.found as u64, Relaxed);
        let lag = (memory::now() - at).max(0).unsigned_abs() * 1000;
        counters.lag_micros.store(lag, Relaxed);
    }

    /// Whether all is on the disk.
    fn save(&self) -> bool {
        let Some(file) = &self.file else { return false };
        let begin = cpu();
        let bytes = {
            let guard = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
            guard.0.save()
        };
        let written = bytes.and_then(|bytes| write(file, &bytes).map_err(|e| e.to_string()));
        if let Err(why) = &written {
            self.counters.unsaved.fetch_add(1, Relaxed);
            tracing::error!(
                "anomalies: {}: {why}; what was learned since is learned anew after a restart",
                file.display()
            );
        }
        self.counters
            .nanos
            .fetch_add(cpu().saturating_sub(begin), Relaxed);
        written.is_ok()
    }
}

/// The whole file or the one before, whatever happens. What is left of an attempt the store removes when it is opened.
fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = file.with_extension("tmp");
    let mut out = File::create(&temporary)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    std::fs::rename(&temporary, file)
}

fn restore(watcher: &mut Watcher, file: &Path, counters: &Counters) {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => {
            counters.unsaved.fetch_add(1, Relaxed);
            tracing::error!(
                "anomalies: {}: {error}; everything is learned anew",
                file.display()
            );
            return;
        }
    };
    match watcher.restore(&bytes) {
        Ok(report) if report.left_out > 0 => tracing::info!(
            "anomalies: {} series go on as learned, {} are learned anew: their watch is another one now, or there is no room",
            report.series,
            report.left_out
        ),
        Ok(report) => tracing::debug!("anomalies: {} series go on as learned", report.series),
        // What was asked for, or who asks, is another one now: nothing is damaged. The next save writes over it.
        Err(fault @ (Fault::Interval(_) | Fault::Foreign)) => {
            tracing::info!(
                "anomalies: {}: {fault}; everything is learned anew",
                file.display()
            );
        }
        Err(fault) => {
            counters.unsaved.fetch_add(1, Relaxed);
            let aside = file.with_extension("damaged");
            let moved = std::fs::rename(file, &aside).is_ok();
            let file = if moved { &aside } else { file };
            tracing::error!(
                "anomalies: {}: {fault}; everything is learned anew",
                file.display()
            );
        }
    }
}

fn log(round: &Round) {
    for (watch, why) in &round.failed {
        tracing::error!("anomalies: watch {watch}: {why}; it is tried again");
    }
    for anomaly in round.begun.iter().take(LOGGED) {
        tracing::warn!("anomaly: {anomaly}{}", line(anomaly));
    }
    for anomaly in round.ended.iter().take(LOGGED) {
        tracing::info!("anomaly is over: {}: {}", anomaly.series(), anomaly.over);
    }
    let more = |all: &[Anomaly]| all.len().saturating_sub(LOGGED);
    let (begun, ended) = (more(&round.begun), more(&round.ended));
    if begun + ended > 0 {
        tracing::warn!(
            "and {begun} anomalies more that have begun, {ended} that are over: geophone anomalies"
        );
    }
}

/// What else had changed, in a line.
fn line(anomaly: &Anomaly) -> String {
    let evidence = reasons(anomaly).into_iter();
    evidence.map(|evidence| format!("; {evidence}")).collect()
}
