mod bad;
mod docs;
mod good;
mod hostile;

use super::*;

/// Variables of the environment.
fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn sets(pairs: &[(&str, &str)]) -> Vec<Given> {
    pairs.iter().map(|(key, value)| Given::set(key, value)).collect()
}

/// The one line that is said of a file.
fn error(text: &str) -> String {
    let error = Config::parse("geophone.yaml", text).unwrap_err().to_string();
    assert!(!error.contains('\n') && error.len() < 400, "{error}");
    error
}

fn error_of(text: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
    Config::layered("geophone.yaml", text, env(variables), &sets(flags))
        .unwrap_err()
        .to_string()
}
