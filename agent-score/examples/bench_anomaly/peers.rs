//! The same series, judged by scikit-learn's IsolationForest and river's HalfSpaceTrees.
//!
//! They give scores, not verdicts. Two thresholds are tried: the highest score of each series' clean beginning, which is
//! what one can do without labels, and the one that does best by the labels, which nobody has.

use super::generate::{CLEAN, Labelled};
use super::judge::{Tally, judge};
use super::{JUDGED, print};
use std::io::{Error, Result};
use std::path::Path;
use std::process::Command;

/// Runs them and prints what they found.
pub fn run(python: &str, all: &[Labelled]) -> Result<()> {
    let scratch = std::env::temp_dir().join(format!("bench_anomaly.{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let done = compare(python, all, &scratch);
    std::fs::remove_dir_all(&scratch)?;
    done
}

fn compare(python: &str, all: &[Labelled], scratch: &Path) -> Result<()> {
    for (i, series) in all.iter().enumerate() {
        let bytes: Vec<u8> = series.values.iter().flat_map(|v| v.to_le_bytes()).collect();
        std::fs::write(scratch.join(format!("{i:04}.values")), bytes)?;
    }
    let script = scratch.join("peers.py");
    std::fs::write(&script, include_str!("peers.py"))?;
    let status = Command::new(python).arg(&script).arg(scratch).status()?;
    if !status.success() {
        return Err(Error::other(format!(
            "{python} ended with {status}; it needs scikit-learn and river"
        )));
    }
    for peer in ["iforest", "hst"] {
        let read = |i: usize| -> Result<Vec<f32>> {
            let bytes = std::fs::read(scratch.join(format!("{i:04}.{peer}")))?;
            let (numbers, _) = bytes.as_chunks::<4>();
            Ok(numbers.iter().map(|b| f32::from_le_bytes(*b)).collect())
        };
        let scores: Vec<Vec<f32>> = (0..all.len()).map(read).collect::<Result<_>>()?;
        let at = |threshold: &dyn Fn(&[f32]) -> f32| -> Vec<Tally> {
            let series = all.iter().zip(&scores);
            series
                .map(|(series, scores)| {
                    let threshold = threshold(scores);
                    judge(series, JUDGED, |t| {
                        !series.values[t].is_nan() && scores[t] > threshold
                    })
                })
                .collect()
        };
        let clean = at(&|scores| scores[JUDGED..CLEAN].iter().copied().fold(0.0, f32::max));
        print(&format!("{peer}, threshold of the clean beginning"), all, &clean);
        let mut sorted: Vec<f32> = scores.iter().flatten().copied().collect();
        sorted.sort_unstable_by(f32::total_cmp);
        let best = (0..40)
            .map(|i| {
                // From a sample in thirty to the last of all.
                let beyond = (sorted.len() as f64).powf(1.0 - f64::from(i) / 39.0) / 30.0;
                let tallies = at(&|_| sorted[sorted.len() - 1 - beyond as usize]);
                let mut total = Tally::default();
                tallies.iter().for_each(|t| total.add(t));
                (total.f1(), tallies)
            })
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((_, tallies)) = best {
            print(
                &format!("{peer}, the best threshold by the labels"),
                all,
                &tallies,
            );
        }
    }
    Ok(())
}
