//! One typed settings tree: defaults, over them one YAML file, over it the environment, over it flags.

mod alerting;
mod anomaly;
mod capacity;
mod check;
mod de;
mod docs;
mod error;
mod health;
mod kubernetes;
mod labels;
mod layers;
mod node;
mod objectives;
mod path;
mod profile;
mod record;
mod rules;
mod security;
mod settings;
mod store;
mod tunnel;
pub mod units;

pub use alerting::{
    AlertingSettings, EmailSettings, InhibitSettings, LogSettings, PagerDutySettings, ReceiverSettings,
    RouteSettings, SlackSettings, TimeIntervalSettings, WebhookSettings,
};
pub use anomaly::{AnomalySettings, WatchSettings, WatchUnit};
pub use capacity::CapacitySettings;
pub use docs::{default_yaml, markdown, schema};
pub use error::ConfigError;
pub use health::{HealthSettings, HealthWeights};
pub use kubernetes::{KubernetesSettings, PeersOf};
pub use labels::{LabelRule, of as labels_of};
pub use layers::{ENV_ELSEWHERE, ENV_PREFIX, Given};
pub use path::PathProtocol;
pub use profile::ProfileProbe;
pub use record::{FlightSettings, RecordSettings};
pub use rules::RulesSettings;
pub use security::SecuritySettings;
pub use settings::{
    Budget, Config, DropsProbe, Export, Limits, Log, LogFormat, LogLevel, NetdevProbe, Pairs, Probes,
    RttSource, TcpProbe,
};
pub use store::{StoreKind, StoreSettings};
pub use tunnel::{TunnelPorts, TunnelProbe, TunnelUse};
pub use units::{Bytes, Glob, HumanDuration};

use error::{Origin, Problem};
use node::{Node, Value};
use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// Longest file in bytes.
pub const LONGEST_FILE: u64 = 1 << 20;

impl Config {
    /// Defaults, then the file at `path` if one is given, then the variables `GEOPHONE_*` of `env`, then `flags`. The
    /// result is valid. `named` is how the file was named, e.g. `--config`, for an error if it cannot be read.
    pub fn load(
        named: &str,
        path: Option<&Path>,
        env: impl IntoIterator<Item = (OsString, OsString)>,
        flags: &[Given],
    ) -> Result<Self, ConfigError> {
        let file = path.map(|p| p.display().to_string()).unwrap_or_default();
        let text = path
            .map(read)
            .transpose()
            .map_err(|e| ConfigError::new(format!("{named} {file}").trim_start(), e))?;
        Self::layered(&file, &text.unwrap_or_default(), env, flags)
    }

    /// A configuration from text alone; `name` stands for the file in errors.
    pub fn parse(name: &str, text: &str) -> Result<Self, ConfigError> {
        Self::layered(name, text, [], &[])
    }

    /// All that is wrong with the objectives of a text that is no configuration, and the first of what else is.
    pub fn mistakes(name: &str, text: &str) -> Vec<ConfigError> {
        match node::parse(text, &Origin::Line) {
            Ok(root) => objectives::mistakes(name, &root),
            Err(problem) => vec![problem.into_error(name, &[])],
        }
    }

    /// Checks ranges, names, peers and what excludes each other. [`Self::load`] has done it.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check::check(self, schema().as_value()).map_err(|e| {
            Problem {
                path: e.path,
                ..Problem::text(e.message)
            }
            .into_error("", &[])
        })
    }

    /// Name of this host: the configured one, else the kernel's.
    pub fn host_name(&self) -> String {
        if !self.host.is_empty() {
            return self.host.clone();
        }
        nix::unistd::gethostname()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    }

    fn layered(
        file: &str,
        text: &str,
        env: impl IntoIterator<Item = (OsString, OsString)>,
        flags: &[Given],
    ) -> Result<Self, ConfigError> {
        let schema = schema();
        let schema = schema.as_value();
        let mut root = Node {
            value: Value::Null,
            origin: Origin::Line(1),
        };
        let read = |root: &mut Node| {
            *root = node::parse(text, &Origin::Line)?;
            layers::apply_env(root, env, schema)?;
            layers::apply_flags(root, flags, schema)?;
            let config: Self = de::from_node(root)?;
            let invalid = check::check(&config, schema).err();
            invalid.map_or(Ok(config), |e| {
                let origin = Some(root.origin_of(&e.path).clone());
                Err(Problem {
                    origin,
                    path: e.path,
                    ..Problem::text(e.message)
                })
            })
        };
        read(&mut root).map_err(|e| e.into_error(file, &docs::env_names(schema)))
    }
}

/// Reads a regular file of bounded length.
fn read(path: &Path) -> Result<String, String> {
    let metadata = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => "no such file; `geophone config default` prints one".to_owned(),
        _ => format!("cannot read: {e}"),
    })?;
    if metadata.is_dir() {
        return Err("is a directory, not a file".to_owned());
    }
    if !metadata.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let mut content = Vec::new();
    let file = File::open(path).map_err(|e| format!("cannot read: {e}"))?;
    file.take(LONGEST_FILE + 1)
        .read_to_end(&mut content)
        .map_err(|e| format!("cannot read: {e}"))?;
    if content.len() as u64 > LONGEST_FILE {
        return Err(format!("is longer than {}", Bytes(LONGEST_FILE)));
    }
    String::from_utf8(content).map_err(|e| {
        let valid = e
            .as_bytes()
            .get(..e.utf8_error().valid_up_to())
            .unwrap_or_default();
        format!(
            "line {} is not valid UTF-8",
            1 + valid.iter().filter(|b| **b == b'\n').count()
        )
    })
}

#[cfg(test)]
mod tests;
