//! The identity of a series.

use std::sync::Arc;

/// The label that carries a metric's name.
pub const NAME: &str = "__name__";

/// Labels of a series, the metric's name among them as `__name__`: ordered by name, each name once, no empty value (to
/// Prometheus an empty label is one that is absent). Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Arc<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// Orders the pairs and leaves out empty values; of a name that is given twice the last value stays.
    pub fn new<N: Into<Arc<str>>, V: Into<Arc<str>>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut all: Vec<(Arc<str>, Arc<str>)> =
            pairs.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
        all.reverse();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all.dedup_by(|later, first| later.0 == first.0);
        all.retain(|(_, value)| !value.is_empty());
        Self(all.into())
    }

    /// The value of a label; empty when the series does not have it.
    pub fn get(&self, name: &str) -> &str {
        self.0
            .binary_search_by(|(n, _)| (**n).cmp(name))
            .ok()
            .and_then(|at| self.0.get(at))
            .map_or("", |(_, value)| value)
    }

    /// The metric's name; empty when there is none.
    pub fn name(&self) -> &str {
        self.get(NAME)
    }

    /// All pairs, ordered by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// Those whose names are kept: ordered as they are, so cheaper than new ones.
    pub(crate) fn filtered(&self, keep: impl Fn(&str) -> bool) -> Self {
        Self(self.0.iter().filter(|(name, _)| keep(name)).cloned().collect())
    }

    /// How many labels there are, the name included.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no label at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_ordered_unique_and_never_empty() {
        let labels = Labels::new([("b", "1"), (NAME, "up"), ("a", ""), ("b", "2")]);
        let seen: Vec<(&str, &str)> = labels.iter().map(|(n, v)| (&**n, &**v)).collect();
        assert_eq!(seen, [(NAME, "up"), ("b", "2")]);
        assert_eq!((labels.name(), labels.get("b"), labels.get("a")), ("up", "2", ""));
    }

    #[test]
    fn a_name_whose_last_value_is_empty_is_absent() {
        assert!(Labels::new([("a", "1"), ("a", "")]).is_empty());
    }
}
