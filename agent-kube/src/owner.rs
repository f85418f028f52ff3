//! From a pod to what it is a copy of.

use std::time::{Duration, SystemTime};

/// What a workload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Its pods belong to a ReplicaSet of it.
    Deployment,
    /// One that nobody owns.
    ReplicaSet,
    /// One that no DeploymentConfig has made.
    ReplicationController,
    /// Its pods keep their names.
    StatefulSet,
    /// A pod a node.
    DaemonSet,
    /// Runs to its end.
    Job,
    /// Makes a Job at each of its times.
    CronJob,
    /// A pod that nobody owns; one that the kubelet has from a file is all its nodes' pods of that name.
    Pod,
    /// Anything else that owns pods: an Argo Rollout, OpenShift's DeploymentConfig, a database's operator.
    Other,
}

/// The owner that controls a pod, as its metadata says.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// `ReplicaSet` and the like.
    pub kind: &'a str,
    /// Its name.
    pub name: &'a str,
}

/// What the metadata of a pod says of where it comes from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origin<'a> {
    /// The pod's own name.
    pub name: &'a str,
    /// Who controls it.
    pub owner: Option<Owner<'a>>,
    /// Label `pod-template-hash`, which the Deployment's controller sets.
    pub template: &'a str,
    /// Label `rollouts-pod-template-hash`, which that of Argo Rollouts sets.
    pub rollout: &'a str,
    /// Annotation `openshift.io/deployment-config.name`, which that of OpenShift's DeploymentConfigs sets.
    pub config: &'a str,
    /// When it was made.
    pub created: Option<SystemTime>,
}

/// A Job's pod is made at most so long after the time that is in the name of the Job: a queue may hold a Job back, and pods are made
/// anew when they fail. A number of eight digits that somebody has chosen is such a time in one case of 2,000.
const LATEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// The workload of a pod. Only the pod is looked at, so that nobody needs the right to read ReplicaSets and Jobs: what
/// makes them puts into the name what tells them apart, and it is taken off only if it is that.
pub fn workload<'a>(pod: &Origin<'a>) -> (Kind, &'a str) {
    let Some(owner) = pod.owner else {
        return (Kind::Pod, pod.name);
    };
    let without = |hash: &str| {
        let stem = owner.name.strip_suffix(hash)?.strip_suffix('-')?;
        (!hash.is_empty() && !stem.is_empty()).then_some(stem)
    };
    match owner.kind {
        "ReplicaSet" => match (without(pod.template), without(pod.rollout)) {
            (Some(deployment), _) => (Kind::Deployment, deployment),
            (None, Some(rollout)) => (Kind::Other, rollout),
            (None, None) => (Kind::ReplicaSet, owner.name),
        },
        "ReplicationController" if is_version(owner.name, pod.config) => (Kind::Other, pod.config),
        "ReplicationController" => (Kind::ReplicationController, owner.name),
        "StatefulSet" => (Kind::StatefulSet, owner.name),
        "DaemonSet" => (Kind::DaemonSet, owner.name),
        "Job" => match scheduled(owner.name, pod.created) {
            Some(cron) => (Kind::CronJob, cron),
            None => (Kind::Job, owner.name),
        },
        // A static pod: the kubelet adds the name of the node.
        "Node" => {
            let stem = pod
                .name
                .strip_suffix(owner.name)
                .and_then(|stem| stem.strip_suffix('-'));
            (
                Kind::Pod,
                stem.filter(|stem| !stem.is_empty()).unwrap_or(pod.name),
            )
        }
        _ => (Kind::Other, owner.name),
    }
}

/// Whether it is one that a DeploymentConfig has made: each time that it rolls out it makes `<name>-<number>`.
fn is_version(controller: &str, config: &str) -> bool {
    let rest = controller.strip_prefix(config);
    let number = rest.and_then(|rest| rest.strip_prefix('-'));
    !config.is_empty() && number.is_some_and(is_number)
}

/// The CronJob of `<name>-<minutes since 1970>`, or seconds before Kubernetes 1.21. A number that is not a time in the month before the
/// pod was made is a name's.
fn scheduled(job: &str, created: Option<SystemTime>) -> Option<&str> {
    let (stem, number) = job.rsplit_once('-')?;
    if stem.is_empty() || number.len() > 10 || !is_number(number) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    // Clocks of two machines: the one that schedules and the one that writes down when.
    let created = created? + Duration::from_secs(60);
    let is_time = [60, 1].into_iter().any(|unit| {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(unit * number);
        created.duration_since(at).is_ok_and(|since| since <= LATEST)
    });
    is_time.then_some(stem)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use Kind::*;

    fn of<'a>(name: &'a str, kind: &'a str, owner: &'a str, template: &'a str) -> (Kind, &'a str) {
        workload(&Origin {
            name,
            owner: Some(Owner { kind, name: owner }),
            template,
            ..Origin::default()
        })
    }

    #[test]
    fn the_hash_of_the_template_is_taken_off_and_nothing_else() {
        let hash = "6d4cf56db6";
        assert_eq!(
            of("web-6d4cf56db6-x7k2p", "ReplicaSet", "web-6d4cf56db6", hash),
            (Deployment, "web")
        );
        assert_eq!(
            of("a-b-6d4cf56db6-x7k2p", "ReplicaSet", "a-b-6d4cf56db6", hash),
            (Deployment, "a-b")
        );
        // A ReplicaSet made by hand may end in anything.
        assert_eq!(
            of("web-6d4cf56db6-x7k2p", "ReplicaSet", "web-6d4cf56db6", ""),
            (ReplicaSet, "web-6d4cf56db6")
        );
        assert_eq!(of("web-x7k2p", "ReplicaSet", "web", hash), (ReplicaSet, "web"));
        assert_eq!(
            of("x", "ReplicaSet", "-6d4cf56db6", hash),
            (ReplicaSet, "-6d4cf56db6")
        );
        assert_eq!(
            of("x", "ReplicaSet", "web6d4cf56db6", hash),
            (ReplicaSet, "web6d4cf56db6")
        );
        let rollout = workload(&Origin {
            name: "web-6d4cf56db6-x7k2p",
            owner: Some(Owner {
                kind: "ReplicaSet",
                name: "web-6d4cf56db6",
            }),
            rollout: hash,
            ..Origin::default()
        });
        assert_eq!(rollout, (Other, "web"));
    }

    #[test]
    fn other_owners_are_the_workload() {
        assert_eq!(of("db-0", "StatefulSet", "db", ""), (StatefulSet, "db"));
        assert_eq!(
            of("cilium-9xk2d", "DaemonSet", "cilium", ""),
            (DaemonSet, "cilium")
        );
        assert_eq!(
            of("old-x7k2p", "ReplicationController", "old", ""),
            (ReplicationController, "old")
        );
        assert_eq!(
            of("driver-1", "SparkApplication", "driver", ""),
            (Other, "driver")
        );
        assert_eq!(of("etcd-node-1", "Node", "node-1", ""), (Pod, "etcd"));
        assert_eq!(of("etcd", "Node", "node-1", ""), (Pod, "etcd"));
        assert_eq!(of("-node-1", "Node", "node-1", ""), (Pod, "-node-1"));
        assert_eq!(
            workload(&Origin {
                name: "debug",
                ..Origin::default()
            }),
            (Pod, "debug")
        );
    }

    #[test]
    fn a_deployment_config_is_the_workload_whatever_its_version() {
        let of = |owner: &'static str, config| {
            workload(&Origin {
                name: "x",
                owner: Some(Owner {
                    kind: "ReplicationController",
                    name: owner,
                }),
                config,
                ..Origin::default()
            })
        };
        assert_eq!(of("shop-15", "shop"), (Other, "shop"));
        assert_eq!(of("shop-1-2", "shop-1"), (Other, "shop-1"));
        for (owner, config) in [
            ("shop-15", ""),
            ("shop-15", "other"),
            ("shop-x", "shop"),
            ("shop-", "shop"),
            ("-1", ""),
        ] {
            assert_eq!(of(owner, config), (ReplicationController, owner));
        }
    }

    #[test]
    fn a_number_is_a_schedule_only_if_it_is_the_time() {
        let minute = 29_400_000u64;
        let at = |seconds: i64| {
            let seconds = (minute * 60).checked_add_signed(seconds).unwrap();
            Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
        };
        let job = |name, created| {
            workload(&Origin {
                name: "x",
                owner: Some(Owner { kind: "Job", name }),
                created,
                ..Origin::default()
            })
        };
        for seconds in [-30, 0, 2, 3600, 172_800, 2_500_000] {
            assert_eq!(
                job("backup-29400000", at(seconds)),
                (CronJob, "backup"),
                "{seconds}"
            );
        }
        for seconds in [-90, 2_600_000, -20_000_000] {
            assert_eq!(
                job("backup-29400000", at(seconds)),
                (Job, "backup-29400000"),
                "{seconds}"
            );
        }
        assert_eq!(job("backup-29400000", None), (Job, "backup-29400000"));
        // Before Kubernetes 1.21.
        assert_eq!(job("backup-1764000000", at(7)), (CronJob, "backup"));
        assert_eq!(job("backup-1764000000", at(-90)), (Job, "backup-1764000000"));
        for name in [
            "migrate",
            "migrate-20261129",
            "-29400000",
            "a-",
            "a-29400000000000000000000",
            "a-2940000x",
        ] {
            assert_eq!(job(name, at(0)), (Job, name));
        }
    }
}
