//! What types alone cannot check: ranges, which stand in the schema, and settings that exclude each other.

use super::settings::{Config, RttSource};
use super::store::StoreKind;
use super::units::{Bytes, HumanDuration};
use crate::identity::Peers;
use crate::identity::peers::PeerError;
use serde_json::Value as Json;

/// Longest name of a host: a node of Kubernetes may be called so.
const LONGEST_HOST: usize = 253;
/// Longest text of a name, region or attribute.
const LONGEST: usize = 128;
/// Most attributes.
const ATTRIBUTES: usize = 64;

/// A setting that is wrong, and why.
#[derive(Debug)]
pub(super) struct Invalid {
    pub path: Vec<String>,
    pub message: String,
}

impl Invalid {
    fn new(path: &[&str], message: impl Into<String>) -> Self {
        Self {
            path: path.iter().map(|p| (*p).to_owned()).collect(),
            message: message.into(),
        }
    }
}

/// Checks the whole tree; the first mistake is the answer.
pub(super) fn check(config: &Config, schema: &Json) -> Result<(), Invalid> {
    let values = serde_json::to_value(config).map_err(|e| Invalid::new(&[], e.to_string()))?;
    ranges(&values, schema, &mut Vec::new())?;
    names(config)?;
    let peers = Peers::new(&config.peers, &config.region, &config.zone);
    peers.map(|_| ()).map_err(|e| match &e {
        PeerError::Twice(_, _, (index, _)) => {
            Invalid::new(&["peers", &format!("[{index}]"), "cidrs"], e.to_string())
        }
        PeerError::TooMany(_) => Invalid::new(&["peers"], e.to_string()),
    })?;
    crate::probes::path::target::targets(config)
        .map_err(|e| Invalid::new(&["probes", "path", "active", "peers"], e))?;
    foreign(&[], config.api.validate())?;
    if config.export.otlp.profiles && !config.probes.profile.enabled {
        let message = "no stacks are taken; set probes.profile.enabled: true";
        return Err(Invalid::new(&["export", "otlp", "profiles"], message));
    }
    let traces = &config.export.otlp.traces;
    if traces.enabled {
        let nothing = match () {
            () if !config.probes.tcp.enabled => "no connection is seen; set probes.tcp.enabled: true",
            () if config.probes.tcp.rtt_source == RttSource::SockOps => {
                "sock_ops does not know how a connection began; set probes.tcp.rtt_source: auto"
            }
            () if config.export.otlp.endpoint.is_none() => {
                "there is nobody to tell; set export.otlp.endpoint"
            }
            () if traces.share == 0.0 && !traces.errors && traces.slow.is_zero() => {
                "none is told; set share, errors or slow"
            }
            () => "",
        };
        if !nothing.is_empty() {
            return Err(Invalid::new(&["export", "otlp", "traces", "enabled"], nothing));
        }
    }
    if config.export.otlp.logs {
        let nothing = match () {
            () if !config.anomaly.enabled => "set anomaly.enabled: true",
            () if config.anomaly.definitions().is_empty() => {
                "set anomaly.defaults: true, or watch something of your own with anomaly.watch"
            }
            // What is watched are series of the store.
            () if config.store.kind == StoreKind::None => {
                "with store.kind: none nothing is remembered that could be watched; set it to auto, memory or disk"
            }
            () => "",
        };
        if !nothing.is_empty() {
            let message = format!("nothing is watched, so there is nothing to log; {nothing}");
            return Err(Invalid::new(&["export", "otlp", "logs"], message));
        }
    }
    if config.probes.profile.off_cpu_waker && !config.probes.profile.off_cpu {
        let message = "no waits are followed; set probes.profile.off_cpu: true";
        return Err(Invalid::new(&["probes", "profile", "off_cpu_waker"], message));
    }
    let weights = config.health.weights();
    if agent_score::health::FACTORS
        .iter()
        .all(|factor| weights.of(factor) == 0)
    {
        let message = "nothing is looked at; give one of them a weight";
        return Err(Invalid::new(&["health", "weights"], message));
    }
    crate::alert::notify::plan(config).map_err(|(path, message)| {
        let path = format!("alerting.{path}").replace('[', ".[");
        Invalid::new(&path.split('.').collect::<Vec<_>>(), message)
    })?;
    config.anomaly.check().map_err(|(mut path, message)| {
        path.insert(0, "anomaly".to_owned());
        Invalid { path, message }
    })?;
    crate::score::slo::configured(config)
        .map_err(|(index, fault)| Invalid::new(&["slos", &format!("[{index}]"), fault.key], fault.what))?;
    foreign(&["kubernetes"], config.kubernetes.validate())?;
    for (index, rule) in config.labels.iter().enumerate() {
        rule.check()
            .map_err(|(key, what)| Invalid::new(&["labels", &format!("[{index}]"), key], what))?;
    }
    foreign(&["probes", "profile"], config.probes.profile.validate())?;
    foreign(&["export"], config.export.otlp.validate())?;
    foreign(&["export"], config.export.remote_write.validate())
}

fn names(config: &Config) -> Result<(), Invalid> {
    let within = |most: usize, path: &[&str], text: &str| match text.len() {
        long if long > most => Err(Invalid::new(path, format!("{long} bytes are more than {most}"))),
        _ => Ok(()),
    };
    let length = |path: &[&str], text: &str| within(LONGEST, path, text);
    length(&["region"], &config.region)?;
    length(&["zone"], &config.zone)?;
    within(LONGEST_HOST, &["host"], &config.host)?;
    if config.attributes.len() > ATTRIBUTES {
        let message = format!(
            "{} attributes are more than {ATTRIBUTES}",
            config.attributes.len()
        );
        return Err(Invalid::new(&["attributes"], message));
    }
    for (key, value) in &config.attributes {
        length(&["attributes", key], value)?;
        if key.is_empty() || key.len() > LONGEST || key.chars().any(char::is_control) {
            let message =
                format!("the name of an attribute has 1 to {LONGEST} bytes and no control characters");
            return Err(Invalid::new(&["attributes", key], message));
        }
    }
    for (index, peer) in config.peers.iter().enumerate() {
        let index = format!("[{index}]");
        if peer.name.is_empty() {
            return Err(Invalid::new(&["peers", &index, "name"], "a peer needs a name"));
        }
        length(&["peers", &index, "name"], &peer.name)?;
        length(&["peers", &index, "region"], &peer.region)?;
        length(&["peers", &index, "zone"], &peer.zone)?;
        if peer.cidrs.is_empty() {
            return Err(Invalid::new(
                &["peers", &index, "cidrs"],
                "a peer needs at least one prefix",
            ));
        }
    }
    Ok(())
}

/// The answer of settings that check themselves: `section.key what is wrong`, below `parent`.
fn foreign(parent: &[&str], answer: anyhow::Result<()>) -> Result<(), Invalid> {
    answer.map_err(|e| {
        let text = format!("{e:#}");
        let name = text
            .find([' ', ':'])
            .and_then(|end| text.get(..end))
            .unwrap_or_default();
        let told = text
            .strip_prefix(name)
            .unwrap_or(&text)
            .trim_start_matches([' ', ':']);
        let path: Vec<&str> = parent.iter().copied().chain(name.split('.')).collect();
        Invalid::new(&path, told)
    })
}

/// Compares every value with `minimum`, `maximum` and their like in its schema.
fn ranges(value: &Json, schema: &Json, path: &mut Vec<String>) -> Result<(), Invalid> {
    let mut inside = |part: String, value: &Json, schema: &Json| {
        path.push(part);
        let result = ranges(value, schema, path);
        path.pop();
        result
    };
    match value {
        Json::Object(entries) => {
            for (key, value) in entries {
                let known = schema.get("properties").and_then(|p| p.get(key));
                if let Some(schema) = known.or_else(|| schema.get("additionalProperties")) {
                    inside(key.clone(), value, schema)?;
                }
            }
            return Ok(());
        }
        Json::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                if let Some(schema) = schema.get("items") {
                    inside(format!("[{index}]"), value, schema)?;
                }
            }
            return Ok(());
        }
        _ => {}
    }
    let fits = match value {
        Json::Number(number) => {
            let bound = |name| numeric(schema).and_then(|s| s.get(name)).and_then(Json::as_f64);
            let number = number.as_f64().unwrap_or(f64::NAN);
            number.is_finite()
                && bound("minimum").is_none_or(|min| number >= min)
                && bound("maximum").is_none_or(|max| number <= max)
        }
        Json::String(text) => {
            let own = measure(text);
            let bound = |name| schema.get(name).and_then(Json::as_str).and_then(measure);
            bound("x-minimum").is_none_or(|min| own >= Some(min))
                && bound("x-maximum").is_none_or(|max| own <= Some(max))
        }
        // What JSON cannot write.
        Json::Null => schema.get("type").is_none_or(|kind| kind != "number"),
        _ => true,
    };
    let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if !fits {
        let message = format!("{shown} is out of range, {}", range(schema).unwrap_or_default());
        return Err(Invalid {
            path: path.clone(),
            message,
        });
    }
    let power = schema.get("x-power-of-two").is_some();
    if power
        && shown
            .parse::<Bytes>()
            .is_ok_and(|bytes| !bytes.get().is_power_of_two())
    {
        return Err(Invalid {
            path: path.clone(),
            message: format!("{shown} is not a power of two"),
        });
    }
    Ok(())
}

/// The alternative of a schema that is a number, if there are several.
fn numeric(schema: &Json) -> Option<&Json> {
    match schema.get("oneOf").and_then(Json::as_array) {
        Some(several) => several
            .iter()
            .find(|s| s.get("type").is_some_and(|t| t == "integer" || t == "number")),
        None => Some(schema),
    }
}

/// `1s to 1h`, of a schema that has bounds.
pub(super) fn range(schema: &Json) -> Option<String> {
    let schema = numeric(schema)?;
    let bound = |plain: &str, text: &str| {
        let value = schema.get(text).or_else(|| schema.get(plain))?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    Some(format!(
        "{} to {}",
        bound("minimum", "x-minimum")?,
        bound("maximum", "x-maximum")?
    ))
}

/// Bytes or ns.
fn measure(text: &str) -> Option<u128> {
    let bytes = text.parse::<Bytes>().ok().map(|b| u128::from(b.get()));
    bytes.or_else(|| text.parse::<HumanDuration>().ok().map(|d| d.get().as_nanos()))
}
