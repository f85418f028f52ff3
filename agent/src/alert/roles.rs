//! Cause and symptom of what is not healthy, told by `geophone_health_role` after each evaluation of the rules of health: who
//! depends on whom is a walk over a graph, which PromQL cannot say. So a fleet's Prometheus does not have it.

use agent_rules::{Derived, Environment, Group, Results};
use agent_score::health::cause::{self, ILL, LACKS, LIES, TALKS, Topology};
use agent_store::labels::{Labels, NAME};
use agent_store::series::Millis;
use std::collections::BTreeSet;

/// The name of the series; labels are `instance`, `entity`, `name` and `role`.
pub const ROLE: &str = "geophone_health_role";

/// The series that were told last.
#[derive(Debug, Default)]
pub(super) struct Roles(Derived);

impl Roles {
    /// Whether it is after this group that they are due.
    pub fn follow(group: &Group) -> bool {
        group.file.file == "health" && group.file.name == "geophone-health"
    }

    /// Tells them. Where all are healthy, nothing is asked but that.
    pub fn tell(
        &mut self,
        at: Millis,
        environment: &Environment<'_>,
        results: &mut Results,
    ) -> Result<(), String> {
        let found = environment.ask(ILL, at, results)?;
        let ill = found.iter().map(|one| {
            let labels = &one.labels;
            cause::entity(labels.get("entity"), labels.get("name"))
        });
        let ill: BTreeSet<cause::Entity> = ill.collect();
        let node = found.first().map_or("", |one| one.labels.get("instance"));
        let mut series = BTreeSet::new();
        if !ill.is_empty() {
            let topology = topology(at, environment, results)?;
            for ((entity, name), role) in cause::roles(&ill, &topology, node) {
                series.insert(Labels::new([
                    (NAME, ROLE),
                    ("instance", node),
                    ("entity", entity.as_str()),
                    ("name", name.as_str()),
                    ("role", role.name()),
                ]));
            }
        }
        self.0.put(series, at, results);
        Ok(())
    }
}

fn topology(at: Millis, environment: &Environment<'_>, results: &Results) -> Result<Topology, String> {
    let mut topology = Topology::default();
    for one in environment.ask(TALKS, at, results)? {
        topology.talks(one.labels.get("subject"), one.labels.get("peer"));
    }
    for one in environment.ask(LIES, at, results)? {
        let [peer, zone, region] = ["peer", "peer_zone", "peer_region"].map(|label| one.labels.get(label));
        topology.lies(peer, zone, region);
    }
    for one in environment.ask(LACKS, at, results)? {
        topology.lacks(one.labels.get("entity"), one.labels.get("name"));
    }
    Ok(topology)
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_rules::Settings;
    use agent_store::promql::Sample;
    use agent_store::series::{Bounds, Free};
    use agent_store::store::{Place, Store, Value};

    #[test]
    fn they_follow_the_group_that_has_the_states() {
        let text = agent_score::health::rules(&agent_score::health::Weights::default());
        let groups = agent_rules::file::parse("health", &text).unwrap();
        let groups = groups.into_iter().map(|group| Group::new(group, true));
        let followed: Vec<Group> = groups.filter(Roles::follow).collect();
        assert_eq!(followed.len(), 1);
        let mut rules = followed[0].rules.iter();
        assert!(rules.any(|rule| rule.file.name == "geophone_health_state"));
    }

    /// Cause: a peer is not healthy, nor is one of the two who talk to it, and that one is well elsewhere. Seen: the peer is the
    /// cause and the other a symptom; and once all are healthy nothing is told any more.
    #[test]
    fn roles_are_series_while_somebody_is_ill() {
        let settings = agent_store::store::Settings {
            worker: false,
            ..agent_store::store::Settings::default()
        };
        let (store, _) = Store::open(Place::Memory, settings).unwrap();
        let append = |at: Millis, state: f64| {
            let talks = [("web", "db"), ("web", "cache"), ("shop", "cache")].map(|(subject, peer)| {
                let name = (NAME, "geophone_tcp_segments_total");
                (
                    Labels::new([name, ("subject", subject), ("peer", peer)]),
                    at as f64,
                )
            });
            let ill = [("peer", "db"), ("subject", "web"), ("peer", "cache")].map(|(entity, name)| {
                let own = [(NAME, "geophone_health_state"), ("instance", "n")];
                let labels = own.into_iter().chain([("entity", entity), ("name", name)]);
                (Labels::new(labels), if name == "cache" { 0.0 } else { state })
            });
            let all = talks.into_iter().chain(ill);
            let all: Vec<_> = all
                .map(|(labels, value)| (store.register(&labels).unwrap(), Value::Float(value)))
                .collect();
            store.append(at, &all);
        };
        (0..10).for_each(|turn| append(turn * 15_000, 2.0));
        let bounds = || -> Box<dyn Bounds> { Box::new(Free) };
        let settings = Settings::default();
        let environment = Environment {
            source: &store,
            bounds: &bounds,
            settings: &settings,
        };
        let (mut roles, mut results) = (Roles::default(), Results::default());
        let mut told = |at: Millis| -> Vec<(String, String)> {
            roles.tell(at, &environment, &mut results).unwrap();
            let found = environment.ask(ROLE, at, &results).unwrap();
            let told = found.iter().map(|one| {
                assert!(matches!(one.sample, Sample::Float(1.0)));
                let name = format!("{}/{}", one.labels.get("entity"), one.labels.get("name"));
                (name, one.labels.get("role").to_owned())
            });
            let mut told: Vec<_> = told.collect();
            told.sort();
            told
        };
        let pair = |name: &str, role: &str| (name.to_owned(), role.to_owned());
        assert_eq!(
            told(135_000),
            [pair("peer/db", "cause"), pair("subject/web", "symptom")]
        );
        append(150_000, 0.0);
        assert_eq!(told(150_000), []);
    }
}
