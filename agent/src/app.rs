//! Puts the parts together: configuration → collector → exporters, API and screen.

mod findings;
mod probes;
mod views;

pub use probes::{probes, sizes, tunnels};
pub use views::{Views, status};

use crate::aggregate::{Collect, Resource, Snapshot};
use crate::alert::notify::Notifier;
use crate::alert::{self, Rules};
use crate::bpf::Verdict;
use crate::collector::{Collector, Outputs, Setup, Shared};
use crate::config::{Config, TunnelUse};
use crate::confine;
use crate::error::{Context as _, Result};
use crate::export::{otlp, push, remote_write};
use crate::identity::backends::Backends;
use crate::identity::names::Names;
use crate::identity::{Peers, kubernetes};
use crate::memory::{self, Memory};
use crate::record::{self, Flight, Source};
use crate::records::Record;
use crate::score::{self, Anomalies};
use crate::stacks::Stacks;
use crate::{api, capacity, ui};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{broadcast, watch};

/// Told events that a slow listener may be behind; each is about 300 bytes, and they live only while somebody listens.
const RECORDS_BEHIND: usize = 8192;

/// What is still to be sent or written when the agent ends has so long.
const LAST_WORDS: Duration = Duration::from_secs(6);

fn resource(config: &Config) -> Resource {
    Resource {
        host: config.host_name(),
        region: config.region.clone(),
        zone: config.zone.clone(),
        attributes: config.attributes.clone().into_iter().collect(),
    }
}

/// A collector for this configuration, attached and ready.
pub fn collector(config: &Config, btf: Option<PathBuf>) -> Result<Collector> {
    let (config, names) = kubernetes::start(config)?;
    collector_of(&config, btf, Source::Kernel, names)
}

/// The same, of another source, and with these names of containers.
pub fn collector_of(
    config: &Config,
    btf: Option<PathBuf>,
    source: Source,
    names: Names,
) -> Result<Collector> {
    let peers = Peers::new(&config.peers, &config.region, &config.zone).context("peers")?;
    let p = &config.probes;
    let needs_programs = p.tcp.enabled
        || p.drops.enabled
        || p.dns.enabled
        || p.udp.enabled
        || p.path.enabled && !p.path.forwarded.devices.is_empty()
        || p.sched.enabled
        || p.profile.enabled
        || p.tunnel.enabled != TunnelUse::Off;
    Ok(Collector::new(Setup {
        probes: probes(config),
        sizes: needs_programs.then(|| sizes(config, &peers)),
        btf,
        peers,
        names,
        resource: resource(config),
        labels: config.labels.clone(),
        budget: if config.budget.enabled {
            config.budget.cpu_percent / 100.0
        } else {
            0.0
        },
        source,
    }))
}

/// A running agent.
pub struct Running {
    /// Snapshots, one a second.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Told events.
    pub records: broadcast::Sender<Arc<Record>>,
    /// Verdicts and the like.
    pub shared: Shared,
    /// Stacks, if any are taken.
    pub stacks: Option<Arc<Stacks>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts the collector's thread.
    pub fn start(collector: Collector, collects: Vec<Box<dyn Collect>>) -> Result<Self> {
        let first = Snapshot {
            resource: collector.resource.clone(),
            ..Snapshot::default()
        };
        let (sender, snapshots) = watch::channel(Arc::new(first));
        let records = broadcast::Sender::new(RECORDS_BEHIND);
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Shared::default();
        let stacks = collector.stacks();
        let thread = collector.spawn(Outputs {
            snapshots: sender,
            records: records.clone(),
            collects,
            stop: stop.clone(),
            shared: shared.clone(),
        })?;
        Ok(Self {
            snapshots,
            records,
            shared,
            stacks,
            stop,
            thread: Some(thread),
        })
    }

    /// Stops the collector, which takes what is still in the ring and makes a last snapshot.
    pub fn stop(&mut self) -> Arc<Snapshot> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the collector's thread has panicked");
        }
        self.snapshots.borrow().clone()
    }

    /// False when the collector has ended without being asked.
    pub fn alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }

    /// Verdicts for the screen.
    pub fn screen_verdicts(&self) -> Vec<ui::view::Verdict> {
        self.verdicts()
            .into_iter()
            .map(|v| ui::view::Verdict {
                program: v.program,
                state: v.state.as_str().to_owned(),
                note: [v.hook, v.reason, v.remedy]
                    .into_iter()
                    .filter(|s| !s.is_empty())
                    .collect::<Vec<_>>()
                    .join("; "),
            })
            .collect()
    }

    /// Verdicts on all programs.
    pub fn verdicts(&self) -> Vec<Verdict> {
        self.shared.verdicts.read().map(|v| v.clone()).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop();
        }
    }
}

/// Everything of `geophone run` but the screen: collector, API, exporters.
pub struct Agent {
    /// The collector.
    pub running: Running,
    shutdown: watch::Sender<bool>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    flight: Option<Arc<Flight>>,
    /// What the live view shows of alerts, anomalies and health.
    pub judges: Option<ui::view::Judges>,
}

impl Agent {
    /// Starts all parts. The API's port is taken first, so that a second agent fails before it attaches anything.
    pub fn start(config: &Config, btf: Option<PathBuf>) -> Result<Self> {
        let bound = api::bind(&config.api).map_err(|e| crate::error::Error::new(format_args!("{e:#}")))?;
        let (config, names) = kubernetes::start(config)?;
        let config = &config;
        let followed = names.kubernetes.clone();
        let peers = followed.clone().filter(|_| config.kubernetes.peers.is_any());
        let failed = |e: anyhow::Error| crate::error::Error::new(format_args!("{e:#}"));
        let exporter = otlp::Exporter::new(&config.export.otlp).map_err(failed)?;
        let profiles = otlp::profiles::Exporter::new(&config.export.otlp).map_err(failed)?;
        let logs = otlp::logs::Exporter::new(&config.export.otlp).map_err(failed)?;
        let traces = otlp::traces::Exporter::new(&config.export.otlp).map_err(failed)?;
        let remote =
            remote_write::Exporter::new(&config.export.remote_write, &config.host_name()).map_err(failed)?;
        let memory = Memory::open_for(&config.store, score::slo::reach(config))?.map(Arc::new);
        let (source, flight) = Flight::start(config)?;
        let mut collector = collector_of(config, btf, source, names)?;
        let spans = collector.spans();
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let start = now.as_nanos() as u64;
        let stats: Arc<api::Stats> = Arc::default();
        let mut collects: Vec<Box<dyn Collect>> =
            vec![Box::new(api::StatsCollect::new(stats.clone(), start))];
        if let Some(followed) = followed {
            let stats = kubernetes::StatsCollect::new(followed, config.kubernetes.subject, start);
            collects.push(Box::new(stats));
        }
        let mut exports = push::StatsCollect::default();
        if let Some(exporter) = &exporter {
            exports.add(otlp::Signal::Metrics.exporter(), exporter.stats(), start);
        }
        if let Some(profiles) = &profiles {
            exports.add(otlp::Signal::Profiles.exporter(), profiles.stats(), start);
        }
        if let Some(logs) = &logs {
            exports.add(otlp::Signal::Logs.exporter(), logs.stats(), start);
        }
        if let Some(traces) = &traces {
            exports.add(otlp::Signal::Traces.exporter(), traces.stats(), start);
        }
        if let Some(remote) = &remote {
            exports.add(remote_write::EXPORTER, remote.stats(), start);
        }
        collects.push(Box::new(exports));
        if let Some(memory) = &memory {
            collects.push(Box::new(memory::StatsCollect::new(memory.clone(), start)));
        }
        let capacity = capacity::Live::new(config, memory.as_ref());
        if let Some(capacity) = &capacity {
            collects.push(Box::new(capacity::StatsCollect::new(capacity.clone(), start)));
        }
        let alertmanagers = alert::alertmanager::all(config)?;
        let rules = Rules::open(config, memory.as_ref(), flight.clone());
        if !alertmanagers.is_empty() && !rules.as_ref().is_some_and(|rules| rules.has_alerts()) {
            tracing::warn!(
                "rules.alertmanagers: there are no rules whose alerts could be sent; set rules.files"
            );
        }
        let notifier = rules.as_ref().map(|_| Notifier::open(config)).transpose()?;
        let notifier = notifier.map(Arc::new);
        if !config.alerting.receivers.is_empty() && !rules.as_ref().is_some_and(|rules| rules.has_alerts()) {
            tracing::warn!(
                "alerting.receivers: there are no rules whose alerts could be told; set rules.files"
            );
        }
        if let Some(rules) = &rules {
            let stats = alert::StatsCollect::new(rules.clone(), &alertmanagers, start);
            collects.push(Box::new(stats));
        }
        if let Some(notifier) = &notifier {
            collects.push(Box::new(alert::notify::StatsCollect::new(
                notifier.clone(),
                start,
            )));
        }
        if let Some(flight) = &flight {
            collects.push(Box::new(record::StatsCollect::new(flight.clone(), start)));
        }
        let anomalies = Anomalies::open(config, memory.as_ref(), start);
        if let Some(anomalies) = &anomalies {
            collects.push(Box::new(score::StatsCollect::new(anomalies.clone(), start)));
        }
        if let (Some(rules), Some(anomalies)) = (&rules, &anomalies) {
            rules.explain_by(anomalies);
        }
        // All that is asked of the kernel but once has been asked; threads that start from now on are born so.
        let confinement = confine::apply(config);
        if let Some(followed) = peers {
            let most = (config.limits.series as usize / 10).max(16);
            match Backends::start(followed, most, start) {
                Ok(backends) => collects.push(Box::new(backends)),
                Err(e) => tracing::error!("{e}; which endpoints are behind services is not known"),
            }
        }
        collects.push(Box::new(confine::StatsCollect::new(start)));
        let running = Running::start(collector, collects)?;
        if let (Some(anomalies), Some(stacks)) = (&anomalies, &running.stacks) {
            anomalies.explain_by(stacks);
        }
        let (shutdown, _) = watch::channel(false);
        let over = || {
            let mut receiver = shutdown.subscribe();
            async move {
                let _ = receiver.wait_for(|over| *over).await;
            }
        };
        let judges = findings::judges(memory.as_ref(), rules.as_ref(), anomalies.as_ref());
        let views = Views::new(
            running.snapshots.clone(),
            running.shared.clone(),
            running.stacks.clone(),
            judges.clone(),
        );
        let topology = views.clone();
        let state = api::State {
            snapshots: running.snapshots.clone(),
            records: running.records.clone(),
            changes: running.shared.changes.clone(),
            status: Arc::new(status(running.shared.clone(), config, confinement)),
            view: Arc::new(move || views.latest()),
            topology: Arc::new(move || topology.topology()),
            stacks: running.stacks.clone(),
            memory: memory.clone(),
            rules: rules.clone(),
            notifier: notifier.clone(),
            capacity: capacity.clone(),
            flight: flight.clone(),
            anomalies: anomalies.clone(),
            stats,
        };
        let mut tasks = Vec::new();
        let stop = over();
        tracing::info!("listening on {}", bound.address());
        tasks.push(tokio::spawn(async move {
            if let Err(e) = api::serve(bound, state, stop).await {
                tracing::error!("api: {e:#}");
            }
        }));
        if let Some(exporter) = exporter {
            tasks.push(tokio::spawn(exporter.run(running.snapshots.clone(), over())));
        }
        if let Some(remote) = remote {
            tasks.push(tokio::spawn(remote.run(running.snapshots.clone(), over())));
        }
        if let (Some(profiles), Some(stacks)) = (profiles, running.stacks.clone()) {
            tasks.push(tokio::spawn(profiles.run(
                stacks,
                running.snapshots.clone(),
                over(),
            )));
        }
        if let (Some(traces), Some(spans)) = (traces, spans) {
            tasks.push(tokio::spawn(traces.run(spans, running.snapshots.clone(), over())));
        }
        if let (Some(logs), Some(anomalies)) = (logs, &anomalies) {
            tasks.push(tokio::spawn(logs.run(
                anomalies.follow(),
                running.snapshots.clone(),
                over(),
            )));
        }
        if let Some(capacity) = capacity {
            let interval = config.capacity.interval.get();
            tasks.push(tokio::spawn(capacity.run(interval, over())));
        }
        tasks.push(tokio::spawn(alert::on_hangup(rules.clone(), over())));
        if let Some(memory) = memory {
            let (snapshots, host) = (running.snapshots.clone(), config.host_name());
            let runtime = tokio::runtime::Handle::current();
            let (stored, ticks) = watch::channel(0);
            if let Some(anomalies) = anomalies {
                let (ticks, runtime) = (stored.subscribe(), runtime.clone());
                tasks.push(tokio::task::spawn_blocking(move || {
                    anomalies.run(ticks, &runtime)
                }));
            }
            if let Some(rules) = rules {
                for alertmanager in alertmanagers {
                    tasks.push(tokio::spawn(alertmanager.run(rules.clone(), over())));
                }
                if let Some(notifier) = notifier {
                    tasks.extend(notifier.deliver(&shutdown.subscribe()));
                    let (rules, over) = (rules.clone(), shutdown.subscribe());
                    let (snapshots, runtime) = (running.snapshots.clone(), runtime.clone());
                    tasks.push(tokio::task::spawn_blocking(move || {
                        notifier.run(&rules, &snapshots, over, &runtime);
                    }));
                }
                let runtime = runtime.clone();
                tasks.push(tokio::task::spawn_blocking(move || rules.run(ticks, &runtime)));
            }
            tasks.push(tokio::task::spawn_blocking(move || {
                memory.record(snapshots, &host, &stored, &runtime);
            }));
        }
        Ok(Self {
            running,
            shutdown,
            tasks,
            flight,
            judges,
        })
    }

    /// Stops the collector, lets the exporters send the last snapshot, ends the API.
    pub async fn stop(mut self) -> Arc<Snapshot> {
        let snapshot = self.running.stop();
        if let Some(flight) = &self.flight {
            flight.finish();
        }
        let _ = self.shutdown.send(true);
        // All of them together: it is what a node has no agent for in an upgrade.
        let end = tokio::time::Instant::now() + LAST_WORDS;
        for task in self.tasks {
            let _ = tokio::time::timeout_at(end, task).await;
        }
        snapshot
    }
}
