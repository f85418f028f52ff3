//! Series in memory: what the store hands out, without a store.

use agent_store::labels::Labels;
use agent_store::series::{Bounds, Matcher, Millis, Refusal, Series, Source};

pub struct Memory(pub Vec<Series>);

/// No bound at all.
pub struct Free;

impl Bounds for Free {
    fn take(&self, _: usize, _: usize) -> Result<(), Refusal> {
        Ok(())
    }
}

impl Source for Memory {
    fn select(
        &self,
        matchers: &[Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
    ) -> Result<Vec<Series>, Refusal> {
        let accepted = |series: &&Series| {
            matchers
                .iter()
                .all(|matcher| matcher.accepts(series.labels.get(&matcher.label)))
        };
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

    fn series(
        &self,
        matchers: &[Matcher],
        from: Millis,
        to: Millis,
        bounds: &dyn Bounds,
    ) -> Result<Vec<Labels>, Refusal> {
        let found = self.select(matchers, from, to, bounds)?;
        Ok(found.into_iter().map(|series| series.labels).collect())
    }
}
