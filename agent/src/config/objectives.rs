//! All that is wrong with the objectives of a configuration, and not only the first.

use super::error::{ConfigError, Problem};
use super::node::{Node, Value};
use super::{Config, check, de, docs, schema};
use agent_slo::Definition;

/// What is wrong with the objectives in the tree, each with its place, and the first of what else is.
pub(super) fn mistakes(file: &str, root: &Node) -> Vec<ConfigError> {
    let schema = schema();
    let schema = schema.as_value();
    let mut rest = root.clone();
    let mut items = Vec::new();
    if let Value::Map(entries) = &mut rest.value {
        entries.retain(|(key, node)| {
            let own = key.text == "slos";
            if let (true, Value::List(list)) = (own, &node.value) {
                items.clone_from(list);
            }
            // What is no list is a mistake of the rest.
            !(own && matches!(node.value, Value::List(_)))
        });
    }
    let (mut config, other) = match de::from_node::<Config>(&rest) {
        Ok(config) => {
            let invalid = check::check(&config, schema).err();
            let other = invalid.map(|invalid| at(root, invalid.path, invalid.message));
            (config, other)
        }
        Err(problem) => (Config::default(), Some(problem)),
    };
    let path = |index: usize, more: &[String]| {
        let own = ["slos".to_owned(), format!("[{index}]")];
        own.into_iter().chain(more.iter().cloned()).collect::<Vec<_>>()
    };
    let mut wrong = Vec::new();
    // Where those stand in the file that can be read.
    let mut places = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match de::from_node::<Definition>(item) {
            Ok(definition) => {
                places.push(index);
                config.slos.push(definition);
            }
            Err(mut problem) => {
                problem.path = path(index, &problem.path);
                wrong.push((index, problem));
            }
        }
    }
    for (place, fault) in crate::score::slo::every(&config).1 {
        if let Some(&index) = places.get(place) {
            let path = path(index, &[fault.key.to_owned()]);
            wrong.push((index, at(root, path, fault.what)));
        }
    }
    wrong.sort_by_key(|(index, _)| *index);
    let wrong = other
        .into_iter()
        .chain(wrong.into_iter().map(|(_, problem)| problem));
    let names = docs::env_names(schema);
    wrong.map(|problem| problem.into_error(file, &names)).collect()
}

fn at(root: &Node, path: Vec<String>, message: String) -> Problem {
    Problem {
        origin: Some(root.origin_of(&path).clone()),
        path,
        ..Problem::text(message)
    }
}
