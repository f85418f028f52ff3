use super::*;
use crate::config::docs::env_names;

#[test]
fn the_default_file_is_the_default() {
    let text = default_yaml();
    assert_eq!(Config::parse("f", &text).unwrap(), Config::default());
    assert!(
        text.lines()
            .all(|line| line.chars().count() <= 110 && line.trim_end() == line),
        "{text}"
    );
    for part in [
        "\nregion: \"\"\n",
        "  ring_bytes: 2MiB\n",
        "#  tls:\n",
        "    interval: 10s\n",
        "    exclude: []\n",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

/// Optional parts are shown as comments; taken in, they are right.
#[test]
fn the_commented_parts_of_the_default_file_are_right() {
    let text = default_yaml();
    let (plain, optional) = text.split_at(text.find("\napi:").unwrap());
    let optional = optional
        .replace("\n#  ", "\n  ")
        .replace("endpoint:", "endpoint: https://x")
        .replace("_file:", "_file: /x");
    let config = Config::parse("f", &(plain.to_owned() + &optional)).unwrap();
    assert_eq!(config.export.otlp.endpoint.unwrap(), "https://x");
    assert_eq!(config.api.tls.unwrap().cert_file, Path::new("/x"));
}

#[test]
fn examples_are_right_and_shown() {
    let text = default_yaml();
    let (_, example) = text.split_at(text.find("#  peers:\n").unwrap());
    let example: String = example
        .lines()
        .map_while(|line| line.strip_prefix("#  "))
        .map(|l| format!("{l}\n"))
        .collect();
    assert_eq!(Config::parse("f", &example).unwrap().peers.len(), 2, "{example}");
    let properties = schema().as_value()["properties"].clone();
    for (key, schema) in properties.as_object().unwrap() {
        for example in schema
            .get("examples")
            .and_then(|e| e.as_array())
            .into_iter()
            .flatten()
        {
            Config::parse("f", &serde_json::json!({ key: example }).to_string()).unwrap();
        }
    }
}

#[test]
fn every_setting_is_documented_in_every_form() {
    fn walk(schema: &serde_json::Value, path: &str) {
        for (key, schema) in schema
            .get("properties")
            .and_then(|p| p.as_object())
            .into_iter()
            .flatten()
        {
            let path = format!("{path}.{key}");
            let text = schema
                .get("description")
                .and_then(|d| d.as_str())
                .unwrap_or_default();
            assert!(text.ends_with('.') || text.ends_with('`'), "{path}: {text:?}");
            walk(schema, &path);
            if let Some(items) = schema.get("items") {
                walk(items, &path);
            }
        }
    }
    walk(schema().as_value(), "");
    let markdown = markdown();
    for part in [
        "| `region` | `\"\"` | text |",
        "## `probes.tcp`",
        "| `sweep_interval` | `10s` | 1s to 1h |",
        "| `pairs` | `auto` | auto, 64 to 65536 |",
        "| `name` | required | text |",
        "`sweep`: The latest sample",
    ] {
        assert!(markdown.contains(part), "{part} in {markdown}");
    }
    assert!(env_names(schema().as_value()).contains(&"GEOPHONE_PROBES__TCP__RTT_SOURCE".to_owned()));
}
