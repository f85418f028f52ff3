use super::*;

#[test]
fn the_default_file_is_the_default() {
    let text = default_yaml();
    assert_eq!(Config::parse("f", &text).unwrap(), Config::default());
    assert!(text.lines().all(|line| line.chars().count() <= 110 && line.trim_end() == line), "{text}");
    for part in ["\nregion: \"\"\n", "  ring_bytes: 2MiB\n", "#  otlp:\n", "#    interval: 10s\n", "    exclude: []\n"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

/// What the file shows as a comment is right as well: keys are known, examples are valid.
#[test]
fn the_commented_parts_of_the_default_file_are_right() {
    let text: String = default_yaml().lines().map(|line| format!("{}\n", line.strip_prefix('#').unwrap_or(line))).collect();
    let text = text.replace("geophone: all settings with their defaults. Whatever is left out keeps its default.", "");
    let with_values = text
        .replace("endpoint:", "endpoint: https://x")
        .replace("_file:", "_file: /x")
        .replace("  exclude: [\"", "# exclude: [\"");
    let uncommented: String = with_values.lines().filter(|l| !l.trim_start().starts_with('#')).fold(String::new(), |out, line| {
        // Prose at the left edge and examples beside the real key are not settings.
        let prose = line.starts_with(' ') && !line.starts_with("  ");
        if prose { out } else { out + line + "\n" }
    });
    let mut config = uncommented.clone();
    for example in ["attributes:", "peers:"] {
        // The example stands before the empty default.
        config = config.replace(&format!("{example} {{}}\n"), "").replace(&format!("{example} []\n"), "");
    }
    let config: String = dedent_examples(&config);
    let parsed = Config::parse("f", &config).unwrap_or_else(|e| panic!("{e}\n{config}"));
    assert_eq!(parsed.peers.len(), 2);
    assert_eq!(parsed.attributes.len(), 2);
    assert_eq!(parsed.export.otlp.unwrap().endpoint, "https://x");
    assert_eq!(parsed.api.token_file.unwrap(), Path::new("/x"));
}

/// Examples of top-level keys are indented by two under their comment sign.
fn dedent_examples(text: &str) -> String {
    let mut inside = false;
    text.lines()
        .map(|line| {
            inside = match line {
                "  attributes:" | "  peers:" => true,
                _ => inside && line.starts_with("  "),
            };
            format!("{}\n", if inside { line.get(2..).unwrap_or(line) } else { line })
        })
        .collect()
}

#[test]
fn every_setting_is_documented_in_every_form() {
    fn walk(schema: &serde_json::Value, path: &str) {
        for (key, schema) in schema.get("properties").and_then(|p| p.as_object()).into_iter().flatten() {
            let path = format!("{path}.{key}");
            let text = schema.get("description").and_then(|d| d.as_str()).unwrap_or_default();
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
        "`sweep`: The smoothed value",
    ] {
        assert!(markdown.contains(part), "{part} in {markdown}");
    }
    assert!(docs::env_names(schema().as_value()).contains(&"GEOPHONE_PROBES__TCP__RTT_SOURCE".to_owned()));
}
