//! What somebody wants otherwise of a dashboard: what its variables begin with, the time that it shows, its own uid.

use crate::Dashboard;
use serde_json::{Value, json};

/// How Grafana calls all values of a variable.
const ALL: (&str, &str) = ("All", "$__all");
/// Longest uid that Grafana takes.
const LONGEST_UID: usize = 40;

impl Dashboard {
    /// Name of each variable, and how people read it.
    pub fn variables(&self) -> Vec<(&str, &str)> {
        let all = self.json["templating"]["list"].as_array();
        all.into_iter()
            .flatten()
            .filter_map(|one| Some((one["name"].as_str()?, one["label"].as_str()?)))
            .collect()
    }

    /// Whether there is a variable of this name, or one that people read so: `instance`, or `node`.
    pub fn has(&self, variable: &str) -> bool {
        self.called(variable).is_some()
    }

    /// The name of the variable that is meant.
    pub fn called(&self, variable: &str) -> Option<&str> {
        let found = self.variables().into_iter().find(|known| is(*known, variable));
        found.map(|(name, _)| name)
    }

    /// The values with which a variable begins, by its name or as people read it. They need not be there yet.
    ///
    /// # Errors
    /// Why not, of the variable or of a value.
    pub fn choose(&mut self, variable: &str, values: &[&str]) -> Result<(), String> {
        let known: Vec<String> = self
            .variables()
            .into_iter()
            .map(|(name, label)| format!("{name} ({label})"))
            .collect();
        let mut all = self.json["templating"]["list"]
            .as_array_mut()
            .into_iter()
            .flatten();
        let found = all.find(|one| {
            let text = |key: &str| one[key].as_str().unwrap_or_default();
            is((text("name"), text("label")), variable)
        });
        let found = found.ok_or_else(|| {
            format!(
                "{variable}: {} has no such variable; there are {}",
                self.name,
                known.join(", ")
            )
        })?;
        if values.is_empty() || values.iter().any(|value| value.trim().is_empty()) {
            return Err(format!("{variable}: without a value; give one, or All"));
        }
        if let Some(value) = values.iter().find(|value| value.contains(char::is_control)) {
            return Err(format!("{variable}: {value:?} has a control character"));
        }
        let many = found["multi"] == true;
        let all = |value: &&str| *value == ALL.0 || *value == ALL.1;
        found["current"] = match values {
            [one] if !many && all(one) => {
                return Err(format!("{variable}: it has one value, not all; name it"));
            }
            [one] if !many => json!({ "selected": true, "text": one, "value": one }),
            _ if !many => return Err(format!("{variable}: it has one value, not {}", values.len())),
            [one] if all(one) => json!({ "selected": true, "text": [ALL.0], "value": [ALL.1] }),
            _ if values.iter().any(all) => {
                return Err(format!("{variable}: All is every value; name no other beside it"));
            }
            _ => json!({ "selected": true, "text": values, "value": values }),
        };
        if found["type"] == "textbox" {
            let current = found["current"].clone();
            found["query"] = current["value"].clone();
            found["options"] = json!([current]);
        }
        Ok(())
    }

    /// The stretch of time that it shows at first: until now, from so long ago, as Grafana writes it: `6h`.
    pub fn show_last(&mut self, time: &str) {
        self.json["time"] = json!({ "from": format!("now-{time}"), "to": "now" });
    }

    /// How often it asks again, as Grafana writes it; `None` = not by itself.
    pub fn refresh(&mut self, every: Option<&str>) {
        self.json["refresh"] = json!(every.unwrap_or_default());
    }

    /// No step of a graph is shorter than this, so that rates are over four of them at least: `1m`.
    pub fn step(&mut self, time: &str) {
        for panel in self.json["panels"].as_array_mut().into_iter().flatten() {
            set_step(panel, time);
        }
    }

    /// Another title.
    pub fn rename(&mut self, title: &str) {
        self.json["title"] = json!(title);
    }

    /// Another uid, so that it stands beside the one that it was made of, whose links go on leading there; its file is named so too.
    ///
    /// # Errors
    /// Why Grafana would not take it.
    pub fn set_uid(&mut self, uid: &str) -> Result<(), String> {
        let is_good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if uid.is_empty() || uid.len() > LONGEST_UID || !uid.chars().all(is_good) {
            return Err(format!(
                "{uid:?}: Grafana takes 1 to {LONGEST_UID} of letters, digits, - and _"
            ));
        }
        uid.clone_into(&mut self.name);
        self.json["uid"] = json!(uid);
        Ok(())
    }
}

fn is((name, label): (&str, &str), said: &str) -> bool {
    said == name || said.eq_ignore_ascii_case(label)
}

fn set_step(panel: &mut Value, time: &str) {
    for target in within(panel, "targets") {
        target["interval"] = json!(time);
    }
    for inside in within(panel, "panels") {
        set_step(inside, time);
    }
}

/// What a panel has of these, if it has any: to ask for what is not there by its index would put it there.
fn within<'a>(panel: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    panel
        .get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}
