//! The tree of routes: which receiver is told of an alert, and with which others it is told.

use crate::interval::Schedule;
use crate::matcher::{Matcher, accepts, shown};
use agent_store::labels::Labels;
use agent_store::series::Millis;
use std::collections::BTreeSet;

/// What alerts are grouped by that stands for the incident an alert belongs to.
pub const INCIDENT: &str = "incident";
/// All labels: each alert is a group.
pub const EVERYTHING: &str = "...";

/// A route as it is configured; what it leaves out it has from its parent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Route {
    /// Name of the receiver.
    pub receiver: Option<String>,
    /// Labels by which alerts are grouped; [`INCIDENT`] and [`EVERYTHING`] are special.
    pub group_by: Option<Vec<String>>,
    /// Ms that a new group waits for more.
    pub group_wait: Option<Millis>,
    /// Ms until a group that was told is looked at again.
    pub group_interval: Option<Millis>,
    /// Ms until what has not changed is told again.
    pub repeat_interval: Option<Millis>,
    /// What an alert must have.
    pub matchers: Vec<Matcher>,
    /// Whether the routes after it are tried as well.
    pub goes_on: bool,
    /// When it tells; not handed down.
    pub schedule: Schedule,
    /// Routes below it.
    pub routes: Vec<Route>,
}

/// A route with all that it has from those above it.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The matchers from the root to it, for the key of a group: what a receiver was told is remembered by that, so that no other route
    /// to the receiver has this one.
    pub key: String,
    /// Name of the receiver.
    pub receiver: String,
    /// Labels by which alerts are grouped.
    pub group_by: Vec<String>,
    /// Ms that a new group waits for more.
    pub group_wait: Millis,
    /// Ms until a group that was told is looked at again.
    pub group_interval: Millis,
    /// Ms until what has not changed is told again.
    pub repeat_interval: Millis,
    /// When it tells.
    pub schedule: Schedule,
    matchers: Vec<Matcher>,
    goes_on: bool,
    /// Places of the routes below it.
    below: Vec<usize>,
}

/// The tree; the first is the root.
#[derive(Clone, Debug, PartialEq)]
pub struct Routes(Vec<Resolved>);

/// Alertmanager's defaults.
const DEFAULTS: [Millis; 3] = [30_000, 300_000, 4 * 3_600_000];

impl Routes {
    /// Hands down what routes leave out. An error is the path of the route, and what is wrong there.
    pub fn new(root: &Route) -> Result<Self, (String, String)> {
        let mut all = Self(Vec::new());
        let top = Resolved {
            key: String::new(),
            receiver: String::new(),
            group_by: Vec::new(),
            group_wait: DEFAULTS[0],
            group_interval: DEFAULTS[1],
            repeat_interval: DEFAULTS[2],
            schedule: Schedule::default(),
            matchers: Vec::new(),
            goes_on: false,
            below: Vec::new(),
        };
        if !root.matchers.is_empty() {
            let why = "the root takes every alert; put the matchers into one of its routes";
            return Err(("matchers".to_owned(), why.to_owned()));
        }
        if root.goes_on {
            let why = "nothing follows the root; leave it out";
            return Err(("continue".to_owned(), why.to_owned()));
        }
        if !root.schedule.is_empty() {
            let key = match root.schedule.mute.is_empty() {
                true => "active_time_intervals",
                false => "mute_time_intervals",
            };
            let why =
                "the root always tells, what no other route takes; put the times into one of its routes";
            return Err((key.to_owned(), why.to_owned()));
        }
        if root.receiver.is_none() {
            let why = "the root needs a receiver, for what no other route takes";
            return Err(("receiver".to_owned(), why.to_owned()));
        }
        all.add(root, &top, "")?;
        Ok(all)
    }

    fn add(&mut self, route: &Route, parent: &Resolved, path: &str) -> Result<usize, (String, String)> {
        let at = self.0.len();
        let own = shown(&route.matchers);
        let key = match parent.key.as_str() {
            "" => own,
            above => format!("{above}/{own}"),
        };
        let receiver = route.receiver.clone().unwrap_or_else(|| parent.receiver.clone());
        let resolved = Resolved {
            key: self.unique(key, &receiver),
            receiver,
            group_by: route.group_by.clone().unwrap_or_else(|| parent.group_by.clone()),
            group_wait: route.group_wait.unwrap_or(parent.group_wait),
            group_interval: route.group_interval.unwrap_or(parent.group_interval),
            repeat_interval: route.repeat_interval.unwrap_or(parent.repeat_interval),
            schedule: route.schedule.clone(),
            matchers: route.matchers.clone(),
            goes_on: route.goes_on,
            below: Vec::new(),
        };
        let names: BTreeSet<&String> = resolved.group_by.iter().collect();
        if names.len() != resolved.group_by.len() {
            return Err((format!("{path}group_by"), "a label is named twice".to_owned()));
        }
        if names.len() > 1 && names.iter().any(|name| *name == EVERYTHING) {
            let why = "\"...\" stands for all labels; name no other beside it";
            return Err((format!("{path}group_by"), why.to_owned()));
        }
        if resolved.group_interval == 0 {
            return Err((format!("{path}group_interval"), "0s is out of range".to_owned()));
        }
        if resolved.repeat_interval < resolved.group_interval {
            let why = "is shorter than group_interval: a group is looked at no more often than that";
            return Err((format!("{path}repeat_interval"), why.to_owned()));
        }
        self.0.push(resolved.clone());
        let mut below = Vec::new();
        for (number, inner) in route.routes.iter().enumerate() {
            below.push(self.add(inner, &resolved, &format!("{path}routes[{number}]."))?);
        }
        if let Some(added) = self.0.get_mut(at) {
            added.below = below;
        }
        Ok(at)
    }

    /// A key that no route to this receiver has; that of the first stays Alertmanager's.
    fn unique(&self, key: String, receiver: &str) -> String {
        let is_taken = |key: &str| {
            let mut all = self.0.iter();
            all.any(|route| route.key == key && route.receiver == receiver)
        };
        if !is_taken(&key) {
            return key;
        }
        let mut others = (2..).map(|number| format!("{key}#{number}"));
        others.find(|other| !is_taken(other)).unwrap_or(key)
    }

    /// All routes, the root first.
    pub fn iter(&self) -> impl Iterator<Item = &Resolved> {
        self.0.iter()
    }

    /// The route at a place.
    pub fn get(&self, place: usize) -> Option<&Resolved> {
        self.0.get(place)
    }

    /// The routes that an alert takes.
    pub fn of(&self, labels: &Labels) -> Vec<usize> {
        let mut found = Vec::new();
        self.walk(0, labels, &mut found);
        found
    }

    fn walk(&self, place: usize, labels: &Labels, found: &mut Vec<usize>) -> bool {
        let Some(route) = self.0.get(place) else {
            return false;
        };
        if !accepts(&route.matchers, labels) {
            return false;
        }
        let before = found.len();
        for below in &route.below {
            let took = self.walk(*below, labels, found);
            if took && !self.0.get(*below).is_some_and(|route| route.goes_on) {
                break;
            }
        }
        if found.len() == before {
            found.push(place);
        }
        true
    }
}

impl Resolved {
    /// What an alert of these labels is grouped by.
    pub fn group(&self, labels: &Labels, incident: &str) -> Labels {
        if self.group_by.iter().any(|name| name == EVERYTHING) {
            return labels.clone();
        }
        let pairs = self.group_by.iter().map(|name| {
            let own = labels.get(name);
            let value = if name == INCIDENT && own.is_empty() {
                incident
            } else {
                own
            };
            (name.as_str(), value)
        });
        Labels::new(pairs)
    }

    /// Alertmanager's key of a group.
    pub fn group_key(&self, group: &Labels) -> String {
        let pairs: Vec<String> = group
            .iter()
            .map(|(name, value)| format!("{name}={:?}", &**value))
            .collect();
        format!("{}:{{{}}}", self.key, pairs.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matcher::parse;

    fn below(receiver: &str, matchers: &str) -> Route {
        Route {
            receiver: Some(receiver.to_owned()),
            matchers: parse(matchers).unwrap(),
            ..Route::default()
        }
    }

    fn tree() -> Route {
        Route {
            receiver: Some("default".to_owned()),
            group_by: Some(vec!["alertname".to_owned()]),
            routes: vec![
                Route {
                    goes_on: true,
                    ..below("log", "severity=~\"warning|critical\"")
                },
                Route {
                    group_wait: Some(5_000),
                    routes: vec![below("db", "peer=~\"db.*\""), below("info", "severity=info")],
                    ..below("ops", "severity=critical")
                },
            ],
            ..Route::default()
        }
    }

    #[test]
    fn an_alert_takes_the_deepest_routes_that_fit() {
        let routes = Routes::new(&tree()).unwrap();
        for (labels, wanted) in [
            ("severity=critical,peer=db-1", &["log", "db"][..]),
            ("severity=critical", &["log", "ops"]),
            ("severity=warning", &["log"]),
            ("severity=none", &["default"]),
        ] {
            let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
            let labels = Labels::new(pairs);
            let taken = routes.of(&labels).into_iter().filter_map(|at| routes.get(at));
            let taken: Vec<&str> = taken.map(|route| route.receiver.as_str()).collect();
            assert_eq!(taken, wanted, "{labels:?}");
        }
        let db = routes.iter().find(|route| route.receiver == "db").unwrap();
        assert_eq!(
            (db.group_wait, db.group_interval, db.group_by.len()),
            (5_000, 300_000, 1)
        );
        assert_eq!(db.key, "{}/{severity=\"critical\"}/{peer=~\"db.*\"}");
        let group = db.group(&Labels::new([("alertname", "A\"\n"), ("peer", "db-1")]), "i1");
        assert_eq!(
            db.group_key(&group),
            "{}/{severity=\"critical\"}/{peer=~\"db.*\"}:{alertname=\"A\\\"\\n\"}"
        );
    }

    /// Cause: two routes with the same matchers and receiver, one for the night and one for the day, and routes below them. Seen: each
    /// has a key of its own, by which is remembered what was told; they had one, and a restart gave all of it to the first.
    #[test]
    fn no_two_routes_to_a_receiver_share_what_they_remember() {
        let twice = || Route {
            goes_on: true,
            routes: vec![below("db", "peer=db"), below("log", "peer=db")],
            ..below("ops", "severity=critical")
        };
        let routes = Routes::new(&Route {
            receiver: Some("ops".to_owned()),
            routes: vec![twice(), twice(), twice(), below("log", "severity=critical")],
            ..Route::default()
        })
        .unwrap();
        let keys: Vec<(&str, &str)> = routes
            .iter()
            .map(|route| (route.key.as_str(), route.receiver.as_str()))
            .collect();
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "{keys:?}");
        let top = "{}/{severity=\"critical\"}";
        let of = |receiver: &str| -> Vec<&str> {
            let all = keys
                .iter()
                .filter(|(key, own)| *own == receiver && !key.contains("peer"));
            all.map(|(key, _)| *key).collect()
        };
        let [second, third] = [2, 3].map(|number| format!("{top}#{number}"));
        assert_eq!(of("ops"), ["{}", top, &second, &third]);
        // What goes to another receiver is remembered elsewhere.
        assert_eq!(of("log"), [top]);
    }

    #[test]
    fn groups_are_by_labels_incident_or_everything() {
        let by = |names: &[&str]| {
            let route = Route {
                receiver: Some("r".to_owned()),
                group_by: Some(names.iter().map(|name| (*name).to_owned()).collect()),
                ..Route::default()
            };
            let routes = Routes::new(&route).unwrap();
            let labels = Labels::new([("alertname", "A"), ("peer", "db")]);
            routes.get(0).unwrap().group(&labels, "7")
        };
        assert_eq!(by(&[]), Labels::default());
        assert_eq!(by(&["alertname", "zone"]), Labels::new([("alertname", "A")]));
        assert_eq!(by(&["incident"]), Labels::new([("incident", "7")]));
        assert_eq!(by(&["..."]), Labels::new([("alertname", "A"), ("peer", "db")]));
    }

    #[test]
    fn a_tree_that_makes_no_sense_is_refused_with_its_place() {
        let wrong = |change: &dyn Fn(&mut Route)| {
            let mut route = tree();
            change(&mut route);
            Routes::new(&route).unwrap_err()
        };
        assert_eq!(wrong(&|r| r.receiver = None).0, "receiver");
        assert_eq!(wrong(&|r| r.goes_on = true).0, "continue");
        assert_eq!(wrong(&|r| r.matchers = parse("a=b").unwrap()).0, "matchers");
        let path = wrong(&|r| r.routes[1].routes[0].repeat_interval = Some(1)).0;
        assert_eq!(path, "routes[1].routes[0].repeat_interval");
        let twice = Some(vec!["a".to_owned(), "a".to_owned()]);
        assert_eq!(
            wrong(&|r| r.routes[0].group_by.clone_from(&twice)).0,
            "routes[0].group_by"
        );
        let both = Some(vec!["...".to_owned(), "a".to_owned()]);
        assert_eq!(wrong(&|r| r.group_by.clone_from(&both)).0, "group_by");
    }
}
