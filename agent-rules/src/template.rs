//! The templates of labels and annotations: Go's language with Prometheus' functions.
//!
//! Parsed by gotmpl. Evaluated here, because gotmpl's evaluator (0.6) writes 12345678 where Go writes 1.2345678e+07, and
//! `<no value>` for a label that is not there, which to Prometheus is empty; promtool is the judge of both. Refused, when the
//! rules are loaded: `now`, `toDuration`, `toTime`, `slice`, `js` and `call`.

mod check;
mod functions;
mod humanize;
pub mod number;
mod printf;
mod run;
#[cfg(test)]
mod tests;
mod value;

use agent_store::labels::Labels;
use agent_store::promql::{Element, Sample as Found};
use gotmpl::parse::{DefineNode, ListNode, Parser};
use std::collections::BTreeMap;
use std::rc::Rc;
use value::{Sample, Texts, Value};

/// A parsed template.
#[derive(Clone, Debug)]
pub struct Template {
    body: ListNode,
    defines: Vec<DefineNode>,
}

/// Answers a template's `query`.
pub type Query<'a> = dyn Fn(&str) -> Result<Vec<Element>, String> + 'a;

/// What a template is evaluated with.
pub struct Scope<'a> {
    /// `$labels`: the labels of the element, its name among them.
    pub labels: &'a Labels,
    /// `$value`.
    pub value: f64,
    /// `$externalLabels`.
    pub external_labels: &'a Labels,
    /// `$externalURL`.
    pub external_url: &'a str,
    /// Answers `query`.
    pub query: &'a Query<'a>,
}

impl Template {
    /// Parses and checks a template; an error says what is wrong, and where in the template.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parsed = Parser::new(text, "{{", "}}").and_then(Parser::parse);
        let (body, defines) = parsed.map_err(|error| error.to_string())?;
        let template = Self { body, defines };
        let variables = ["$labels", "$externalLabels", "$externalURL", "$value"];
        check::check(&template, &variables, &[])?;
        Ok(template)
    }

    /// Parses one of a notification, as Alertmanager has them: its data is the notification, and there is no `query`. It may use what
    /// `files` define; what stands there besides, line ends between definitions or a comment, is no part of it.
    pub fn of_notification(files: &str, text: &str) -> Result<Self, String> {
        let parse = |text| Parser::new(text, "{{", "}}").and_then(Parser::parse);
        let (_, mut defines) = parse(files).map_err(|error| error.to_string())?;
        let (body, own) = parse(text).map_err(|error| error.to_string())?;
        // The last of a name holds.
        defines.extend(own);
        let template = Self { body, defines };
        check::check(&template, &[], functions::OF_NOTIFICATIONS)?;
        Ok(template)
    }

    /// What one of a notification comes to.
    pub fn fill(&self, data: &Datum, external_url: &str) -> Result<String, String> {
        let scope = Scope {
            labels: &Labels::default(),
            value: 0.0,
            external_labels: &Labels::default(),
            external_url,
            query: &|_| Err("a notification has nothing to ask".to_owned()),
        };
        run::with(self, &scope, Vec::new(), &data.value())
    }

    /// What it comes to.
    pub fn expand(&self, scope: &Scope<'_>) -> Result<String, String> {
        run::run(self, scope)
    }
}

/// The data of a notification.
#[derive(Clone, Debug)]
pub enum Datum {
    /// A text.
    Text(String),
    /// Labels or annotations.
    Pairs(BTreeMap<String, String>),
    /// Fields with names.
    Record(BTreeMap<&'static str, Datum>),
    /// Several; those that have a field `Status` can be asked for `.Firing` and `.Resolved`.
    List(Vec<Datum>),
}

impl Datum {
    fn value(&self) -> Value {
        match self {
            Self::Text(text) => Value::text(text),
            Self::Pairs(pairs) => {
                let pairs = pairs.iter();
                Value::Pairs(Rc::new(
                    pairs
                        .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
                        .collect(),
                ))
            }
            Self::Record(fields) => {
                let fields = fields.iter();
                Value::Data(Rc::new(
                    fields.map(|(name, datum)| (*name, datum.value())).collect(),
                ))
            }
            Self::List(items) => Value::List(items.iter().map(Self::value).collect()),
        }
    }
}

impl Scope<'_> {
    fn query(&self, query: &str) -> Result<Value, String> {
        let found = (self.query)(query)?;
        let samples = found.iter().map(|element| {
            let value = match &element.sample {
                Found::Float(value) => *value,
                Found::Histogram(_) => 0.0,
            };
            Rc::new(Sample {
                labels: texts(&element.labels),
                value,
            })
        });
        Ok(Value::Samples(samples.collect()))
    }

    fn data(&self) -> BTreeMap<&'static str, Value> {
        BTreeMap::from([
            ("Labels", Value::Texts(texts(self.labels))),
            ("ExternalLabels", Value::Texts(texts(self.external_labels))),
            ("ExternalURL", Value::text(self.external_url)),
            ("Value", Value::Float(self.value)),
        ])
    }
}

fn texts(labels: &Labels) -> Texts {
    let pairs = labels.iter();
    Rc::new(pairs.map(|(name, value)| (name.clone(), value.clone())).collect())
}
