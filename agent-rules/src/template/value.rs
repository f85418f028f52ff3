//! What a template computes with.

use super::number;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// Go's `map[string]string`: a name that is not in it has the empty value.
pub(super) type Texts = Rc<BTreeMap<Arc<str>, Arc<str>>>;

/// An element of what `query` found.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub labels: Texts,
    pub value: f64,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    Texts(Texts),
    Sample(Rc<Sample>),
    Samples(Rc<[Rc<Sample>]>),
    /// What a template begins with: a field that is not there is an error.
    Data(Rc<BTreeMap<&'static str, Value>>),
    /// What `args` makes.
    Named(Rc<BTreeMap<String, Value>>),
    /// Labels or annotations of a notification: as `Texts`, but Alertmanager gives them methods.
    Pairs(Texts),
    /// A list of a notification: its alerts, names, values.
    List(Rc<[Value]>),
}

impl Value {
    pub fn text(text: &str) -> Self {
        Self::Text(text.into())
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Nil => "nil",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float64",
            Self::Text(_) => "string",
            Self::Texts(_) => "map[string]string",
            Self::Sample(_) => "*sample",
            Self::Samples(_) => "[]*sample",
            Self::Data(_) => "data",
            Self::Named(_) => "map[string]interface {}",
            Self::Pairs(_) => "template.KV",
            Self::List(_) => "list",
        }
    }

    pub fn is_true(&self) -> bool {
        match self {
            Self::Nil => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::Texts(texts) | Self::Pairs(texts) => !texts.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Samples(samples) => !samples.is_empty(),
            Self::Named(values) => !values.is_empty(),
            Self::Sample(_) | Self::Data(_) => true,
        }
    }

    /// `.name` of it.
    pub fn field(&self, name: &str) -> Result<Self, String> {
        match self {
            Self::Texts(texts) => Ok(look_up(texts, name)),
            Self::Named(values) => Ok(values.get(name).cloned().unwrap_or(Self::Nil)),
            Self::Sample(sample) if name == "Labels" => Ok(Self::Texts(sample.labels.clone())),
            Self::Sample(sample) if name == "Value" => Ok(Self::Float(sample.value)),
            Self::Data(data) if data.contains_key(name) => Ok(data.get(name).cloned().unwrap_or(Self::Nil)),
            Self::Pairs(texts) => Ok(method(texts, name).unwrap_or_else(|| look_up(texts, name))),
            Self::List(items) => of_list(items, name),
            Self::Nil => Err(format!("nil has no field {name}")),
            other => Err(format!("can't evaluate field {name} in type {}", other.kind())),
        }
    }

    /// As `{{ }}` and `%v` write it.
    pub fn write(&self, out: &mut String) {
        match self {
            Self::Nil => out.push_str("<no value>"),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Int(value) => out.push_str(&value.to_string()),
            Self::Float(value) => out.push_str(&number::float(*value, 'g', None)),
            Self::Text(text) => out.push_str(text),
            Self::Texts(texts) | Self::Pairs(texts) => {
                write_map(out, texts.iter(), |out, text| out.push_str(text));
            }
            Self::List(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(' ');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Self::Sample(sample) => {
                out.push('{');
                write_map(out, sample.labels.iter(), |out, text| out.push_str(text));
                out.push(' ');
                Self::Float(sample.value).write(out);
                out.push('}');
            }
            Self::Samples(samples) => {
                out.push('[');
                for (at, sample) in samples.iter().enumerate() {
                    if at > 0 {
                        out.push(' ');
                    }
                    Self::Sample(sample.clone()).write(out);
                }
                out.push(']');
            }
            Self::Data(data) => write_map(out, data.iter(), |out, value| value.write(out)),
            Self::Named(values) => write_map(out, values.iter(), |out, value| value.write(out)),
        }
    }

    pub fn to_text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }
}

/// What Alertmanager's `KV` can do.
fn method(texts: &Texts, name: &str) -> Option<Value> {
    let list: Vec<Value> = match name {
        "SortedPairs" => {
            // As Alertmanager has it: the name of the alert first.
            let (first, others): (Vec<_>, Vec<_>) =
                texts.iter().partition(|(name, _)| &***name == "alertname");
            let pairs = first.into_iter().chain(others);
            pairs
                .map(|(name, value)| {
                    let pair = [("Name", Value::text(name)), ("Value", Value::text(value))];
                    Value::Data(Rc::new(BTreeMap::from(pair)))
                })
                .collect()
        }
        "Names" => texts.keys().map(|name| Value::text(name)).collect(),
        "Values" => texts.values().map(|value| Value::text(value)).collect(),
        _ => return None,
    };
    Some(Value::List(list.into()))
}

/// `Firing` and `Resolved` of alerts, `Names` and `Values` of pairs.
fn of_list(items: &Rc<[Value]>, name: &str) -> Result<Value, String> {
    let field = |item: &Value, name: &str| match item {
        Value::Data(data) => data.get(name).cloned(),
        _ => None,
    };
    let list: Vec<Value> = match name {
        "Firing" | "Resolved" => {
            let wanted = name.to_lowercase();
            let is = |item: &&Value| field(item, "Status").is_some_and(|status| status.to_text() == wanted);
            items.iter().filter(is).cloned().collect()
        }
        "Names" => items.iter().filter_map(|item| field(item, "Name")).collect(),
        "Values" => items.iter().filter_map(|item| field(item, "Value")).collect(),
        other => return Err(format!("can't evaluate field {other} in type list")),
    };
    Ok(Value::List(list.into()))
}

pub(super) fn look_up(texts: &Texts, name: &str) -> Value {
    Value::text(texts.get(name).map_or("", |value| value))
}

fn write_map<'a, K: AsRef<str> + 'a, V: 'a>(
    out: &mut String,
    entries: impl Iterator<Item = (&'a K, &'a V)>,
    write: impl Fn(&mut String, &V),
) {
    out.push_str("map[");
    for (at, (name, value)) in entries.enumerate() {
        if at > 0 {
            out.push(' ');
        }
        out.push_str(name.as_ref());
        out.push(':');
        write(out, value);
    }
    out.push(']');
}
