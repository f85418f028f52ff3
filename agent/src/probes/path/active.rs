//! Traces, on a thread of their own: the collector only takes what is done.

use super::Options;
use super::history::{History, Seen};
use super::metrics::{HOP_RTT, INFO};
use super::sockets::{Own, Sockets};
use super::target::Target;
use super::trace::{Trace, trace};
use crate::aggregate::{HistogramValue, Labels};
use crate::error::{Context as _, Result};
use crate::record::Source;
use crate::records::RouteChange;
use agent_common::histogram::{cell, from_micros};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longest time that the thread sleeps before it looks whether it is to end.
const NAP: Duration = Duration::from_millis(200);
/// Traces that may wait for the collector.
const WAITING: usize = 64;

/// What came of a trace: index of the target, when, the trace or why there is none.
type Outcome = (usize, f64, std::result::Result<Trace, String>);

/// What is known of one hop of a target. Its series stay when another router takes its place: they are of the place.
pub struct Place {
    /// Labels of the target, and the hop.
    pub labels: Arc<Labels>,
    /// The same and who answers: one series for each router.
    pub routers: Vec<Arc<Labels>>,
    /// Round-trip times.
    pub rtt: Arc<HistogramValue>,
    /// Packets that should have ended here.
    pub sent: u64,
    /// Those of them that nobody answered.
    pub lost: u64,
    /// What the latest traces show.
    pub seen: Seen,
}

/// A target and its way.
pub struct Way {
    target: Target,
    history: History,
    /// The places on the way, [`super::trace::LONGEST`] at most. Those beyond its end leave, and are new when they come again.
    pub places: Vec<Place>,
    /// Traces that could not be made.
    pub failed: u64,
    /// Answers that were none to a packet of ours.
    pub foreign: u64,
    /// Changes.
    pub changes: u64,
    /// Labels of the target.
    pub labels: Arc<Labels>,
    warned: String,
}

/// The thread, and what it has found.
pub struct Active {
    /// Targets, in the order of the configuration.
    pub ways: Vec<Way>,
    outcomes: Receiver<Outcome>,
    stop: Arc<AtomicBool>,
}

impl Active {
    /// Starts the thread; a recording has its traces.
    pub fn start(options: &Options, source: &Source, series_start: u64) -> Result<Self> {
        let (sender, outcomes) = sync_channel(WAITING);
        let stop = Arc::new(AtomicBool::new(false));
        let (own, ended) = (options.clone(), stop.clone());
        if source.past().is_none() {
            std::thread::Builder::new()
                .name("path".into())
                .spawn(move || run(&own, &sender, &ended))
                .context("starting the thread of probe path")?;
        }
        let ways = options.targets.iter().map(|target| Way {
            target: target.clone(),
            history: History::default(),
            places: Vec::new(),
            failed: 0,
            foreign: 0,
            changes: 0,
            labels: Arc::new(Labels::new(
                super::metrics::TARGET,
                &target_values(target).each_ref().map(String::as_str),
                false,
                series_start,
            )),
            warned: String::new(),
        });
        Ok(Self {
            ways: ways.collect(),
            outcomes,
            stop,
        })
    }

    /// Takes the traces that are done; returns the changes.
    pub fn take(&mut self, source: &Source, series_start: u64) -> Vec<RouteChange> {
        let mut changes = Vec::new();
        let live = || self.outcomes.try_iter().collect::<Vec<Outcome>>();
        for (index, time, outcome) in source.ask("path traces", live).unwrap_or_default() {
            let Some(way) = self.ways.get_mut(index) else {
                continue;
            };
            match outcome {
                Ok(trace) => changes.extend(way.take(trace, time, series_start)),
                Err(error) => {
                    way.failed += 1;
                    if way.warned != error {
                        tracing::warn!("probe path: {}: {error}", way.target.address);
                        way.warned = error;
                    }
                }
            }
        }
        changes
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        // Not waited for: a trace may last seconds, and there is nothing to save.
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn run(options: &Options, sender: &SyncSender<Outcome>, stop: &AtomicBool) {
    let mut flows: Vec<Option<Own>> = options.targets.iter().map(|_| None).collect();
    loop {
        let start = Instant::now();
        for (index, (target, own)) in options.targets.iter().zip(&mut flows).enumerate() {
            let outcome = match one(options, target, own, stop) {
                Ok(Some(trace)) => Ok(trace),
                Ok(None) => return,
                Err(e) => Err(e.to_string()),
            };
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            if sender.send((index, now.as_secs_f64(), outcome)).is_err() {
                return;
            }
        }
        // Many targets may take longer than the interval: then there is still a pause.
        let pause = options
            .interval
            .saturating_sub(start.elapsed())
            .max(Duration::from_secs(1));
        let end = Instant::now() + pause;
        while Instant::now() < end {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(NAP);
        }
    }
}

fn one(
    options: &Options,
    target: &Target,
    own: &mut Option<Own>,
    stop: &AtomicBool,
) -> Result<Option<Trace>> {
    let kept = Own::keep(own.take(), target, options.protocol)?;
    let flow = kept.flow(target, options.protocol, options.port);
    *own = Some(kept);
    trace(&Sockets::open(flow)?, stop)
}

fn target_values(target: &Target) -> [String; 4] {
    let peer = &target.peer;
    [
        peer.name.clone(),
        peer.region.clone(),
        peer.zone.clone(),
        target.address.to_string(),
    ]
}

impl Way {
    fn take(&mut self, trace: Trace, time: f64, series_start: u64) -> Option<RouteChange> {
        self.warned.clear();
        self.foreign += trace.foreign;
        let change = self.history.take(trace.clone());
        let seen = self.history.view();
        self.count(&trace, seen, series_start);
        self.name_routers(series_start);
        let change = change?;
        self.changes += 1;
        let peer = &self.target.peer;
        Some(RouteChange {
            time,
            source: "active".into(),
            peer: peer.name.clone(),
            peer_region: peer.region.clone(),
            peer_zone: peer.zone.clone(),
            remote: Some(self.target.address),
            hops_before: change.hops.0,
            hops_after: change.hops.1,
            before: change.before,
            after: change.after,
            ..RouteChange::default()
        })
    }

    fn count(&mut self, trace: &Trace, seen: Vec<Seen>, series_start: u64) {
        let values = target_values(&self.target);
        self.places.truncate(seen.len());
        for (i, seen) in seen.into_iter().enumerate() {
            if self.places.len() == i {
                let number = (i + 1).to_string();
                let [peer, region, zone, remote] = &values;
                let values = [number.as_str(), peer, region, zone, remote];
                self.places.push(Place {
                    labels: Arc::new(Labels::new(HOP_RTT.labels, &values, false, series_start)),
                    routers: Vec::new(),
                    rtt: Arc::default(),
                    sent: 0,
                    lost: 0,
                    seen: Seen::default(),
                });
            }
            let Some(place) = self.places.get_mut(i) else {
                return;
            };
            place.seen = seen;
            let Some(hop) = trace.hops.get(i) else {
                continue;
            };
            place.sent += hop.sent;
            place.lost += hop.sent.saturating_sub(hop.answered.len() as u64);
            let rtt = Arc::make_mut(&mut place.rtt);
            for took in &hop.answered {
                let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
                let seconds = took.as_secs_f64();
                rtt.add_cell(cell(from_micros(micros)), 1);
                rtt.sum += seconds;
                rtt.min = Some(rtt.min.map_or(seconds, |m| m.min(seconds)));
                rtt.max = Some(rtt.max.map_or(seconds, |m| m.max(seconds)));
            }
        }
    }

    /// Makes the labels by which the present routers are shown.
    fn name_routers(&mut self, series_start: u64) {
        let [peer, region, zone, remote] = &target_values(&self.target);
        for (i, place) in self.places.iter_mut().enumerate() {
            let names: Vec<String> = place.seen.addresses.iter().map(ToString::to_string).collect();
            let old: Vec<&str> = place
                .routers
                .iter()
                .filter_map(|l| l.get(&crate::aggregate::label::HOP_ADDRESS))
                .collect();
            if old == names {
                continue;
            }
            let number = (i + 1).to_string();
            place.routers = names
                .iter()
                .map(|name| {
                    let values = [name.as_str(), number.as_str(), peer, region, zone, remote];
                    Arc::new(Labels::new(INFO.labels, &values, false, series_start))
                })
                .collect();
        }
    }
}
