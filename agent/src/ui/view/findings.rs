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

/// Who asks for the first time since a while waits so long for an answer, and no longer: keys are read on the same thread.
const PATIENCE: Duration = Duration::from_millis(50);
/// An answer that is no older is shown while the next is asked for; of an older one it is said how old it is.
const FRESH: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 3000 });
/// Whoever takes longer for the first answer is slow, and that is said.
const SLOW: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 2000 });

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
    /// When.
    at: Option<Instant>,
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

impl Asking {
    fn end(mut self, found: Vec<Finding>) {
        self.1 = Some(found);
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.asking = None;
        match self.1.take() {
            Some(found) => {
                (state.latest, state.failed) = (found, false);
                state.at = Some(Instant::now());
            }
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
            let asking = Asking(shared.clone(), None);
            let begun = thread::Builder::new().name("findings".to_owned()).spawn(move || {
                let found = (asking.0.ask)();
                asking.end(found);
            });
            if let Err(error) = begun {
                tracing::debug!(%error, "no thread to ask for findings");
            }
            state = shared.lock();
        }
        if state.at.is_none_or(|at| at.elapsed() > FRESH) {
            let waited = shared
                .answered
                .wait_timeout_while(state, PATIENCE, |state| state.asking.is_some());
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let mut found = state.latest.clone();
        let asking = state.asking.map(|since| since.elapsed());
        let age = state.at.map(|at| at.elapsed());
        let why = match (asking, age) {
            (Some(_), Some(age)) if age > FRESH => {
                Some(format!("no answer yet; what is shown is {} s old", age.as_secs()))
            }
            (Some(time), None) if time > SLOW => Some(format!("no answer for {} s", time.as_secs())),
            _ => None,
        };
        if let Some(why) = why {
            found.push(Finding::error("agent", why));
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
        let begin = Instant::now();
        while judges.ask() != [health(0.0)] {
            assert!(begin.elapsed() < Duration::from_secs(10));
        }
        // While it is fresh nothing else is said.
        let begin = Instant::now();
        let old = loop {
            let asked = Instant::now();
            let found = judges.ask();
            assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
            assert_eq!(found[0], health(0.0));
            if found.len() > 1 {
                break found;
            }
            assert!(begin.elapsed() < Duration::from_secs(10));
            thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(old[1].kind, "error");
        assert!(old[1].of.contains("what is shown is 0 s old"), "{old:?}");
        assert_eq!(asked.load(SeqCst), 2);
        // Now it answers, and whoever is asked next does so at once.
        drop(go);
        let begin = Instant::now();
        while judges.ask()[0] == health(0.0) || judges.ask().len() > 1 {
            assert!(begin.elapsed() < Duration::from_secs(10));
        }
    }

    #[test]
    fn who_does_not_answer_at_all_is_named() {
        let judges = Judges::new(|| panic!("a test"));
        let begin = Instant::now();
        loop {
            let found = judges.ask();
            assert!(found.iter().all(|one| one.kind == "error"), "{found:?}");
            if found.first().is_some_and(|one| one.of.contains("gave no answer")) {
                break;
            }
            assert!(begin.elapsed() < Duration::from_secs(10), "{found:?}");
        }
    }

    /// Cause: the first answer takes long. Seen: nothing is said of it before it is slow, then that there is none.
    #[test]
    fn a_first_answer_that_is_not_slow_is_no_error() {
        let (go, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let judges = Judges::new(move || {
            let _ = wait.lock().unwrap().recv();
            vec![health(1.0)]
        });
        let begin = Instant::now();
        let said = loop {
            let found = judges.ask();
            if !found.is_empty() {
                break found;
            }
            assert!(begin.elapsed() < Duration::from_secs(10));
        };
        assert!(begin.elapsed() > SLOW, "{:?}", begin.elapsed());
        assert!(said[0].of.starts_with("no answer for "), "{said:?}");
        drop(go);
        while judges.ask() != [health(1.0)] {
            assert!(begin.elapsed() < Duration::from_secs(10));
        }
    }
}
