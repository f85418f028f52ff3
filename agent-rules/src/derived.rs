//! Series that are made of what rules came to, where PromQL cannot say how.

use crate::evaluate::Environment;
use crate::results::{Results, Together};
use agent_store::labels::Labels;
use agent_store::promql::{self, Element, Sample, Value};
use agent_store::series::Millis;
use std::collections::BTreeSet;

/// Series that are 1 while they are there.
#[derive(Debug, Default)]
pub struct Derived(BTreeSet<Labels>);

impl Derived {
    /// These are there now; those of before that are not end.
    pub fn put(&mut self, series: BTreeSet<Labels>, at: Millis, results: &mut Results) {
        for labels in &series {
            results.add(labels, at, Sample::Float(1.0));
        }
        for ended in self.0.difference(&series) {
            results.end(ended, at);
        }
        self.0 = series;
    }
}

impl Environment<'_> {
    /// What a query comes to, which sees what rules came to before it, as a rule does.
    ///
    /// # Errors
    ///
    /// Why it cannot be evaluated.
    pub fn ask(&self, query: &str, at: Millis, results: &Results) -> Result<Vec<Element>, String> {
        let source = Together {
            base: self.source,
            results,
        };
        let bounds = (self.bounds)();
        let answer = promql::instant(query, at, &self.settings.options, &source, &*bounds);
        match answer.map_err(|error| error.to_string())?.value {
            Value::Vector(_, elements) => Ok(elements),
            _ => Err("it is not a vector".to_owned()),
        }
    }
}
