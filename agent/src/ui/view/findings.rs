//! What the agent makes of what it sees: alerts, anomalies, scores.

use serde::{Deserialize, Serialize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Finding {
    /// `alert`, `anomaly` or `health`; `error`: somebody could not be asked.
    pub kind: String,
    /// What it says of it: an alert's severity, `pending`, an anomaly's direction, `healthy`, `degraded` or `critical`.
    pub state: String,
    /// The alert's name, the watch, `score`.
    pub name: String,
    /// Of what: labels, or an entity.
    pub of: String,
    /// Since when, seconds since the Unix epoch; `None` = it has no beginning.
    pub since: Option<f64>,
    /// The value, or the score.
    pub value: Option<f64>,
    /// More, a line each.
    pub more: Vec<String>,
}

impl Finding {
    /// That somebody could not be asked, and why.
    pub fn error(whom: &str, why: impl Into<String>) -> Self {
        let why = why.into();
        Self {
            kind: "error".to_owned(),
            state: "unknown".to_owned(),
            name: whom.to_owned(),
            of: why.clone(),
            more: vec![why],
            ..Self::default()
        }
    }
}

/// Who draws, or answers the API, waits no longer than this; a key has an answer in time.
const PATIENCE: Duration = Duration::from_millis(50);

/// Tells all findings of now. Nothing is computed while nobody asks, and who asks is not held up by an agent that is busy: what is
/// asked is asked on a thread of its own, one at a time.
#[derive(Clone)]
pub struct Judges(Arc<Shared>);

struct Shared {
    ask: Box<dyn Fn() -> Vec<Finding> + Send + Sync>,
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Default)]
struct State {
    /// What was said last.
    latest: Vec<Finding>,
    /// Since when an answer is waited for.
    asking: Option<Instant>,
    /// The last one who was asked gave none.
    failed: bool,
}

impl std::fmt::Debug for Judges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Judges")
    }
}

/// Ends the waiting, also if there will be no answer.
struct Asking(Arc<Shared>, Option<Vec<Finding>>);

impl Drop for Asking {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.asking = None;
        match self.1.take() {
            Some(found) => (state.latest, state.failed) = (found, false),
            None => state.failed = true,
        }
        self.0.answered.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Judges {
    /// Of whoever knows them.
    pub fn new(ask: impl Fn() -> Vec<Finding> + Send + Sync + 'static) -> Self {
        Self(Arc::new(Shared {
            ask: Box::new(ask),
            state: Mutex::default(),
            answered: Condvar::new(),
        }))
    }

    /// What they say; what they said last, and that it is old, if they take long.
    pub fn ask(&self) -> Vec<Finding> {
        let shared = &self.0;
        let mut state = shared.lock();
        if state.asking.is_none() {
            state.asking = Some(Instant::now());
            drop(state);
            let mut asking = Asking(shared.clone(), None);
            let begun = thread::Builder::new().name("findings".to_owned()).spawn(move || {
                let found = (asking.0.ask)();
                asking.1 = Some(found);
            });
            if let Err(error) = begun {
                tracing::debug!(%error, "no thread to ask for findings");
            }
            state = shared.lock();
        }
        let (state, _) = shared
            .answered
            .wait_timeout_while(state, PATIENCE, |state| state.asking.is_some())
            .unwrap_or_else(PoisonError::into_inner);
        let mut found = state.latest.clone();
        if let Some(since) = state.asking {
            let seconds = since.elapsed().as_secs();
            found.push(Finding::error(
                "agent",
                format!("no answer for {seconds} s; what is shown is what was known before"),
            ));
        } else if state.failed {
            found.push(Finding::error("agent", "it gave no answer; the log says why"));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::sync::mpsc;

    fn health(score: f64) -> Finding {
        Finding {
            kind: "health".to_owned(),
            value: Some(score),
            ..Finding::default()
        }
    }

    /// Cause: whoever knows takes long. Seen: who asks has what was known, and that it is old, at once; no second one is asked
    /// meanwhile; the answer is there when it is there.
    #[test]
    fn who_asks_is_not_held_up() {
        let (go, wait) = mpsc::channel::<()>();
        let (wait, asked) = (Mutex::new(wait), Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        let judges = Judges::new(move || {
            let asked = count.fetch_add(1, SeqCst);
            if asked > 0 {
                let _ = wait.lock().unwrap().recv();
            }
            vec![health(asked as f64)]
        });
        assert_eq!(judges.ask(), [health(0.0)]);
        for _ in 0..3 {
            let begin = Instant::now();
            let found = judges.ask();
            assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
            assert_eq!(found[0], health(0.0));
            assert_eq!((found.len(), found[1].kind.as_str()), (2, "error"));
            assert!(found[1].of.contains("no answer for"), "{found:?}");
        }
        assert_eq!(asked.load(SeqCst), 2);
        // Now it answers, and whoever is asked next does so at once.
        drop(go);
        let begin = Instant::now();
        while judges.ask().len() > 1 {
            assert!(begin.elapsed() < Duration::from_secs(10));
        }
        assert!(asked.load(SeqCst) >= 2);
        assert!(judges.ask()[0].value >= Some(1.0));
    }

    #[test]
    fn who_does_not_answer_at_all_is_named() {
        let judges = Judges::new(|| panic!("a test"));
        let found = judges.ask();
        assert_eq!((found.len(), found[0].kind.as_str()), (1, "error"), "{found:?}");
    }
}
