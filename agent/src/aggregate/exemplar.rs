//! Values of a histogram that lead to the span they are of.

/// One value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    /// The value, in the unit of its histogram; it has been counted there.
    pub value: f64,
    /// When its span ended, ns since the Unix epoch.
    pub unix_nanos: u64,
    /// Time of the first snapshot that has it, ns since the Unix epoch: what is pushed goes once.
    pub placed: u64,
    /// Id of the trace.
    pub trace_id: u128,
    /// Id of the span.
    pub span_id: u64,
}

/// So many a histogram keeps, each of another power of two: what is rare is not pushed out by what is frequent.
const MOST: usize = 8;

impl Exemplar {
    /// The id of the trace in W3C's form.
    pub fn trace(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// The id of the span in W3C's form.
    pub fn span(&self) -> String {
        format!("{:016x}", self.span_id)
    }

    /// The exponent of the power of two at which the value's classic bucket ends.
    pub fn octave(&self) -> i32 {
        // Zero, and what is smaller than any bucket, is in the first.
        self.value.log2().ceil().max(-64.0) as i32
    }
}

/// With a new one those go that are older than this, ns: traces are not kept for ever either.
const OLDEST: u64 = 15 * 60 * 1_000_000_000;

/// Keeps one: in the place of that of its power of two, else of the oldest. They stay in the order of their time.
pub fn keep(all: &mut Vec<Exemplar>, new: Exemplar) {
    all.retain(|old| old.unix_nanos.saturating_add(OLDEST) >= new.unix_nanos);
    let octave = new.octave();
    let same = all.iter().position(|old| old.octave() == octave);
    if same.is_some_and(|at| all.get(at).is_some_and(|old| old.unix_nanos > new.unix_nanos)) {
        return;
    }
    match same {
        Some(at) => drop(all.remove(at)),
        None if all.len() >= MOST => drop(all.remove(0)),
        None => {}
    }
    let at = all.partition_point(|old| old.unix_nanos <= new.unix_nanos);
    all.insert(at, new);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_each_power_of_two_is_kept_and_no_more_than_eight() {
        let of = |value, unix_nanos| Exemplar {
            value,
            unix_nanos,
            placed: 0,
            trace_id: 1,
            span_id: 1,
        };
        let mut all = Vec::new();
        for (value, time) in [(0.3, 1), (0.9, 5), (0.4, 3), (0.35, 2), (1.0, 4)] {
            keep(&mut all, of(value, time));
        }
        // 0.4 and 0.3 end at a half, 0.9 and 1.0 at one; what comes late is not newer.
        assert_eq!(all, [of(0.4, 3), of(0.9, 5)]);
        for n in 0..20 {
            keep(&mut all, of(f64::from(n).exp2(), 10 + n as u64));
        }
        assert_eq!(all.len(), MOST);
        assert!(all.is_sorted_by_key(|e| e.unix_nanos));
        assert_eq!(all[0].unix_nanos, 22);
        keep(&mut all, of(0.5, 29 + OLDEST));
        assert_eq!(
            all.iter().map(|e| e.unix_nanos).collect::<Vec<_>>(),
            [29, 29 + OLDEST]
        );
        let mut zero = Vec::new();
        keep(&mut zero, of(0.0, 1));
        assert_eq!(
            (zero[0].octave(), zero[0].trace().len(), zero[0].span().len()),
            (-64, 32, 16)
        );
    }
}
