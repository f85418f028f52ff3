//! Where the series come from on our side: vectors, and the store itself.

pub use agent_store::series::Free;
use agent_store::series::{Bounds, Matcher, Millis, Refusal, Series, Source, accepts};
use agent_store::store::{Place, SeriesRef, Settings, Store, Value};
use std::collections::BTreeMap;

pub struct Memory(pub Vec<Series>);

impl Source for Memory {
    fn select(
        &self,
        matchers: &[Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
    ) -> Result<Vec<Series>, Refusal> {
        let accepted = |series: &&Series| accepts(matchers, &series.labels);
        let found: Vec<Series> = self.0.iter().filter(accepted).cloned().collect();
        for series in &found {
            let times = series
                .samples
                .floats
                .times
                .iter()
                .chain(&series.samples.histograms.times);
            bounds.take(1, times.filter(|time| (from..=to).contains(*time)).count())?;
        }
        Ok(found)
    }
}

/// A store in memory with the same samples, half of them in blocks.
pub fn store(all: &[Series]) -> Store {
    let settings = Settings {
        worker: false,
        ..Settings::default()
    };
    let (store, _) = Store::open(Place::Memory, settings).unwrap();
    let mut ticks: BTreeMap<Millis, Vec<(SeriesRef, Value)>> = BTreeMap::new();
    for series in all {
        let id = store.register(&series.labels).unwrap();
        let floats = &series.samples.floats;
        for (time, value) in floats.times.iter().zip(&floats.values) {
            ticks.entry(*time).or_default().push((id, Value::Float(*value)));
        }
        let histograms = &series.samples.histograms;
        for (time, value) in histograms.times.iter().zip(&histograms.values) {
            ticks
                .entry(*time)
                .or_default()
                .push((id, Value::Histogram(value.clone())));
        }
    }
    let half = ticks.len() / 2;
    for (at, (time, samples)) in ticks.iter().enumerate() {
        store.append(*time, samples);
        if at == half {
            store.flush();
        }
    }
    store
}
