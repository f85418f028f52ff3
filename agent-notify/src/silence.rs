//! Silences: what is not told for a time, because somebody said so.

use crate::file;
use crate::matcher::{self, Matcher, accepts};
use agent_store::labels::Labels;
use agent_store::series::Millis;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Most silences that are not over.
pub const MOST: usize = 1000;
/// What is over is listed for so long.
const KEPT: Millis = 5 * 24 * 3_600_000;
/// Longest author or comment in bytes.
const LONGEST: usize = 4096;
/// A silence ends a year from now at the latest.
pub const YEAR: Millis = 366 * 24 * 3_600_000;

/// A silence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Silence {
    /// Its number, 32 hexadecimal digits in five groups.
    pub id: String,
    /// What alerts must have; at least one of the matchers does not accept an empty value.
    pub matchers: Vec<Matcher>,
    /// From this time on, ms since 1970.
    pub starts_at: Millis,
    /// Until this time.
    pub ends_at: Millis,
    /// When it was made or ended.
    pub updated_at: Millis,
    /// By whom.
    pub created_by: String,
    /// Why.
    pub comment: String,
}

impl Silence {
    /// `pending`, `active` or `expired`.
    pub fn state(&self, now: Millis) -> &'static str {
        match () {
            () if now >= self.ends_at => "expired",
            () if now < self.starts_at => "pending",
            () => "active",
        }
    }

    /// What is wrong with it, if anything is.
    pub fn check(&self, now: Millis) -> Result<(), String> {
        let empty = Labels::default();
        if self.matchers.is_empty() || self.matchers.iter().all(|matcher| matcher.accepts(&empty)) {
            return Err(
                "at least one matcher must refuse an empty value: this would silence everything".to_owned(),
            );
        }
        if self.matchers.len() > matcher::MOST {
            return Err(format!("more than {} matchers", matcher::MOST));
        }
        if self.ends_at <= self.starts_at {
            return Err("it ends before it starts".to_owned());
        }
        if self.ends_at <= now {
            return Err("it ends in the past".to_owned());
        }
        if self.ends_at.saturating_sub(now) > YEAR {
            return Err("it ends more than a year from now; silence for less, and again".to_owned());
        }
        if self.created_by.trim().is_empty() {
            return Err("createdBy is empty; say who silences".to_owned());
        }
        if self.comment.trim().is_empty() {
            return Err("comment is empty; say why".to_owned());
        }
        if self.created_by.len().max(self.comment.len()) > LONGEST {
            return Err(format!("createdBy and comment have {LONGEST} bytes at most"));
        }
        Ok(())
    }
}

/// Why a silence was not ended; each says which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotExpired {
    /// There is none of this id.
    Unknown(String),
    /// It is over already.
    Over(String),
    /// It cannot be written down.
    Unwritten(String),
}

/// All silences, and the file that they are in.
#[derive(Debug, Default)]
pub struct Silences {
    all: Vec<Silence>,
    path: Option<PathBuf>,
    /// The file is there, but could not be read, nor put aside.
    unread: bool,
}

impl Silences {
    /// Those of a file; if it cannot be read the text says why, and there are none.
    pub fn open(path: PathBuf) -> (Self, Option<String>) {
        let (all, wrong) = match file::list(&path) {
            Ok(all) => (all, None),
            Err(wrong) => (Vec::new(), Some(wrong)),
        };
        let unread = wrong.is_some() && path.exists();
        let path = Some(path);
        (Self { all, path, unread }, wrong)
    }

    /// All of them, those that end last first.
    pub fn all(&self) -> &[Silence] {
        &self.all
    }

    /// Changes the one that has its id; `None` if there is none.
    pub fn change(&mut self, silence: Silence, now: Millis) -> Option<Result<(), String>> {
        let old = self.all.iter().find(|other| other.id == silence.id)?;
        if old.ends_at <= now {
            let why = format!("silence {} is over: what is over stays; leave the id out", old.id);
            return Some(Err(why));
        }
        Some(self.add(silence, now))
    }

    /// Adds one, or takes the place of the one that has its id and is not over. Not added if it could not be written down: it
    /// would be gone after a restart, and nobody would know.
    pub fn add(&mut self, silence: Silence, now: Millis) -> Result<(), String> {
        silence.check(now)?;
        let mut all = self.kept(now);
        all.retain(|other| other.id != silence.id);
        if all.iter().filter(|other| other.ends_at > now).count() >= MOST {
            return Err(format!("there are {MOST} already; expire one"));
        }
        all.push(silence);
        self.put(all)
    }

    /// Ends one.
    pub fn expire(&mut self, id: &str, now: Millis) -> Result<(), NotExpired> {
        let mut all = self.kept(now);
        let found = all.iter_mut().find(|silence| silence.id == id);
        let found = found.ok_or_else(|| NotExpired::Unknown(format!("there is no silence {id:?}")))?;
        if found.ends_at <= now {
            return Err(NotExpired::Over(format!("silence {id} is over already")));
        }
        found.starts_at = found.starts_at.min(now);
        found.ends_at = now;
        found.updated_at = now;
        self.put(all).map_err(NotExpired::Unwritten)
    }

    fn kept(&self, now: Millis) -> Vec<Silence> {
        let kept = self.all.iter().filter(|silence| silence.ends_at + KEPT > now);
        kept.cloned().collect()
    }

    fn put(&mut self, mut all: Vec<Silence>) -> Result<(), String> {
        all.sort_by(|a, b| b.ends_at.cmp(&a.ends_at).then_with(|| a.id.cmp(&b.id)));
        if let Some(path) = &self.path {
            if self.unread {
                return Err(format!(
                    "{} could not be read at the start, and would be overwritten; mend it and restart the agent",
                    path.display()
                ));
            }
            let text = serde_json::to_vec_pretty(&all).map_err(|error| error.to_string())?;
            file::replace(path, &text).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        self.all = all;
        Ok(())
    }

    /// Whether one of them is active and means these labels.
    pub fn mute(&self, labels: &Labels, now: Millis) -> bool {
        self.all
            .iter()
            .any(|silence| silence.state(now) == "active" && accepts(&silence.matchers, labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::parse;

    fn silence(id: &str, matchers: &str, span: (Millis, Millis)) -> Silence {
        Silence {
            id: id.to_owned(),
            matchers: parse(matchers).unwrap(),
            starts_at: span.0,
            ends_at: span.1,
            updated_at: 0,
            created_by: "me".to_owned(),
            comment: "because".to_owned(),
        }
    }

    #[test]
    fn it_mutes_while_it_is_active_and_survives() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("silences.json");
        let (mut silences, wrong) = Silences::open(path.clone());
        assert_eq!(wrong, None);
        silences
            .add(silence("a", "peer=~\"db.*\"", (10, 100)), 5)
            .unwrap();
        let labels = Labels::new([("peer", "db-1"), ("l", "\r\n\"}")]);
        let muted = |silences: &Silences| [9, 10, 99, 100].map(|now| silences.mute(&labels, now));
        assert_eq!(muted(&silences), [false, true, true, false]);
        assert!(!silences.mute(&Labels::new([("peer", "web")]), 50));
        drop(silences);
        let (mut silences, wrong) = Silences::open(path.clone());
        assert_eq!((muted(&silences), wrong), ([false, true, true, false], None));
        silences.expire("a", 50).unwrap();
        assert_eq!(muted(&silences), [false, true, false, false]);
        let refused = |silences: &mut Silences, id| silences.expire(id, 51).unwrap_err();
        assert!(matches!(refused(&mut silences, "a"), NotExpired::Over(why) if why.contains("over already")));
        assert!(
            matches!(refused(&mut silences, "b"), NotExpired::Unknown(why) if why.contains("no silence"))
        );
        let (silences, _) = Silences::open(path.clone());
        assert_eq!(silences.all()[0].state(50), "expired");
        std::fs::write(&path, "{").unwrap();
        let (silences, wrong) = Silences::open(path);
        assert!(silences.all().is_empty() && wrong.is_some());
    }

    #[test]
    fn one_that_makes_no_sense_is_refused() {
        let mut silences = Silences::default();
        for (one, why) in [
            (silence("a", "", (0, 9)), "silence everything"),
            (silence("a", "peer=~\".*\"", (0, 9)), "silence everything"),
            (silence("a", "peer=db", (9, 9)), "before it starts"),
            (silence("a", "peer=db", (0, 1)), "in the past"),
            (silence("a", "peer=db", (0, Millis::MAX)), "more than a year"),
            (
                Silence {
                    comment: " ".to_owned(),
                    ..silence("a", "peer=db", (0, 9))
                },
                "say why",
            ),
            (
                Silence {
                    created_by: String::new(),
                    ..silence("a", "peer=db", (0, 9))
                },
                "say who",
            ),
            (
                Silence {
                    comment: "x".repeat(LONGEST + 1),
                    ..silence("a", "peer=db", (0, 9))
                },
                "at most",
            ),
        ] {
            let error = silences.add(one, 5).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        for number in 0..MOST {
            let one = silence(&number.to_string(), "peer=db", (0, 1000));
            // To sort a thousand lists is not what is tested.
            silences.all.push(one);
        }
        assert!(silences.add(silence("a", "peer=db", (0, 9)), 5).is_err());
        silences.add(silence("7", "peer=web", (0, 9)), 5).unwrap();
        assert_eq!(silences.all().len(), MOST);
        silences
            .add(silence("a", "peer=db", (0, 9 + KEPT)), 1001 + KEPT)
            .unwrap_err();
        silences
            .add(silence("a", "peer=db", (0, 2000 + KEPT)), 1001 + KEPT)
            .unwrap();
        assert_eq!(silences.all().len(), 1, "what is long over is gone");
    }

    #[test]
    fn what_is_not_there_or_over_is_not_changed() {
        let mut silences = Silences::default();
        assert_eq!(silences.change(silence("a", "peer=db", (0, 9)), 5), None);
        silences.add(silence("a", "peer=db", (0, 9)), 5).unwrap();
        assert_eq!(silences.change(silence("a", "peer=web", (0, 8)), 6), Some(Ok(())));
        let changed = silences.change(silence("a", "peer=db", (0, 20)), 9).unwrap();
        assert!(changed.unwrap_err().contains("is over"));
        assert_eq!(silences.all(), [silence("a", "peer=web", (0, 8))]);
    }

    #[test]
    fn what_cannot_be_read_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s.json");
        // A directory can be read by nobody, root neither.
        std::fs::create_dir(&path).unwrap();
        let (mut silences, wrong) = Silences::open(path.clone());
        assert!(wrong.is_some());
        std::fs::remove_dir(&path).unwrap();
        let error = silences.add(silence("a", "peer=db", (0, 9)), 5).unwrap_err();
        assert!(error.contains("restart") && !path.exists(), "{error}");
    }

    #[test]
    fn what_cannot_be_written_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let (mut silences, _) = Silences::open(directory.path().join("none/s.json"));
        let error = silences.add(silence("a", "peer=db", (0, 9)), 5).unwrap_err();
        assert!(error.contains("s.json"), "{error}");
        assert!(silences.all().is_empty());
        silences.all.push(silence("a", "peer=db", (0, 9)));
        let error = silences.expire("a", 5).unwrap_err();
        assert!(matches!(error, NotExpired::Unwritten(why) if why.contains("s.json")));
        assert_eq!(silences.all()[0].ends_at, 9);
    }
}
