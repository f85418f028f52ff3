//! Alertmanager's matchers: `name="value"`, with `=`, `!=`, `=~` and `!~`; regular expressions are anchored.

use agent_store::labels::Labels;
use agent_store::promql::is_label_name;
use agent_store::series::Comparison;
use regex::RegexBuilder;
use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Longest text of a matcher.
const LONGEST: usize = 4096;
/// What a compiled pattern may take: patterns come from outside. Hardly one takes more than the first.
const SMALL: usize = 64 << 10;
const LARGE: usize = 512 << 10;
/// Most matchers of a list that comes from outside; one with a large pattern counts for as many small ones.
pub const MOST: usize = 64;

/// A condition on one label; a label that is absent has the empty value.
#[derive(Clone, Debug)]
pub struct Matcher {
    inner: agent_store::series::Matcher,
    value: String,
    /// How many it counts for.
    weight: usize,
}

/// As Alertmanager's API writes a matcher.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Plain {
    name: String,
    value: String,
    is_regex: bool,
    #[serde(default = "yes")]
    is_equal: bool,
}

fn yes() -> bool {
    true
}

impl Matcher {
    fn new(name: &str, operator: &str, value: String) -> Result<Self, String> {
        if !is_label_name(name) {
            return Err(format!(
                "{name:?} is no name of a label; write e.g. alertname=\"Down\""
            ));
        }
        if value.len() > LONGEST {
            return Err(format!(
                "the value of {name} has {} bytes, more than {LONGEST}",
                value.len()
            ));
        }
        let mut weight = 1;
        let mut pattern = || {
            let text = ascii(&value);
            let within = |most: usize| {
                let build = |text: &str| RegexBuilder::new(text).size_limit(most).build();
                // By itself first: "a)|(b" would become one by being anchored.
                build(&text).and_then(|_| build(&format!("^(?:{text})$")))
            };
            let anchored = within(SMALL).or_else(|error| match error {
                regex::Error::CompiledTooBig(_) => {
                    weight = LARGE / SMALL;
                    within(LARGE)
                }
                error => Err(error),
            });
            anchored.map_err(|error| match error {
                regex::Error::CompiledTooBig(most) => {
                    format!(
                        "{value:?} is too large: compiled it takes more than {most} bytes; write fewer or smaller repetitions"
                    )
                }
                error => {
                    let why = error.to_string();
                    let last = why.lines().last().unwrap_or_default();
                    format!("{value:?} is no regular expression: {last}")
                }
            })
        };
        let comparison = match operator {
            "=" => Comparison::Equal(value.clone()),
            "!=" => Comparison::NotEqual(value.clone()),
            "=~" => Comparison::Matches(pattern()?),
            _ => Comparison::MatchesNot(pattern()?),
        };
        let inner = agent_store::series::Matcher {
            label: name.to_owned(),
            comparison,
        };
        Ok(Self { inner, value, weight })
    }

    /// `name="value"`.
    pub fn equal(name: &str, value: &str) -> Self {
        Self {
            inner: agent_store::series::Matcher::equal(name, value),
            value: value.to_owned(),
            weight: 1,
        }
    }

    /// Whether these labels meet it.
    pub fn accepts(&self, labels: &Labels) -> bool {
        self.inner.accepts(labels.get(&self.inner.label))
    }

    fn operator(&self) -> &'static str {
        match self.inner.comparison {
            Comparison::Equal(_) => "=",
            Comparison::NotEqual(_) => "!=",
            Comparison::Matches(_) => "=~",
            Comparison::MatchesNot(_) => "!~",
        }
    }
}

/// With the classes that RE2 has, and so Alertmanager: of ASCII. Those of Unicode are what no label is about, and large: `\w+-\w+`
/// alone took more than 64 KiB.
fn ascii(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        // Within brackets as well: there a class may stand in a class.
        match rest.next() {
            Some('d') => out.push_str("[0-9]"),
            Some('D') => out.push_str("[^0-9]"),
            Some('w') => out.push_str("[0-9A-Za-z_]"),
            Some('W') => out.push_str("[^0-9A-Za-z_]"),
            Some('s') => out.push_str("[\\t\\n\\f\\r ]"),
            Some('S') => out.push_str("[^\\t\\n\\f\\r ]"),
            other => {
                out.push(c);
                out.extend(other);
            }
        }
    }
    out
}

/// Whether matchers, those of a silence, pass a filter as Alertmanager's API has it: each of its conditions is on the value of the matcher
/// of that name, the last of several, and on an empty one where there is none.
pub fn passes(own: &[Matcher], filter: &[Matcher]) -> bool {
    filter.iter().all(|wanted| {
        let found = own.iter().rfind(|one| one.inner.label == wanted.inner.label);
        let value = found.map_or("", |one| one.value.as_str());
        // As there `name!=""` asks whether there is one, whatever it says.
        let is_there = wanted.value.is_empty() && wanted.operator().starts_with('!') && found.is_some();
        is_there || wanted.inner.accepts(value)
    })
}

/// How many small ones these are worth.
fn weight(all: &[Matcher]) -> usize {
    all.iter().map(|matcher| matcher.weight).sum()
}

/// One more of a list, if there is room.
fn add(all: &mut Vec<Matcher>, one: Matcher) -> Result<(), String> {
    if weight(all) + one.weight > MOST {
        return Err(format!(
            "more than {MOST} matchers, of which {:?} counts for {}: write fewer or smaller repetitions",
            one.value, one.weight
        ));
    }
    all.push(one);
    Ok(())
}

/// Whether labels meet all of them.
pub fn accepts(matchers: &[Matcher], labels: &Labels) -> bool {
    matchers.iter().all(|matcher| matcher.accepts(labels))
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        (&self.inner.label, self.operator(), &self.value)
            == (&other.inner.label, other.operator(), &other.value)
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{:?}", self.inner.label, self.operator(), self.value)
    }
}

/// As Alertmanager writes several.
pub fn shown(matchers: &[Matcher]) -> String {
    let all: Vec<String> = matchers.iter().map(ToString::to_string).collect();
    format!("{{{}}}", all.join(","))
}

impl FromStr for Matcher {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = parse(text)?;
        match (all.pop(), all.is_empty()) {
            (Some(one), true) => Ok(one),
            _ => Err(format!("{text:?} is not one matcher")),
        }
    }
}

/// Reads `a="b"`, or several with commas between, or `{a="b", c=~"d"}`: [`MOST`] at most. Quotes may be left out where the value
/// has no comma.
pub fn parse(text: &str) -> Result<Vec<Matcher>, String> {
    let trimmed = text.trim();
    let inner = match trimmed.strip_prefix('{') {
        Some(rest) => rest
            .strip_suffix('}')
            .ok_or_else(|| format!("{text:?}: the brace is not closed"))?,
        None => trimmed,
    };
    let mut all = Vec::new();
    let mut rest = inner.trim();
    while !rest.is_empty() {
        if weight(&all) == MOST {
            return Err(format!("more than {MOST} matchers"));
        }
        let (matcher, after) = one(rest)?;
        add(&mut all, matcher)?;
        rest = match after.trim_start().strip_prefix(',') {
            Some(rest) => rest.trim_start(),
            None if after.trim().is_empty() => "",
            None => return Err(format!("{:?}: a comma is missing before it", after.trim())),
        };
    }
    Ok(all)
}

fn one(text: &str) -> Result<(Matcher, &str), String> {
    let none = || format!("{text:?} has none of = != =~ !~; write e.g. alertname=\"Down\"");
    let at = text.find(['=', '!']).ok_or_else(none)?;
    let (name, rest) = text.split_at(at);
    let operator = ["=~", "!~", "!=", "="];
    let operator = operator.into_iter().find(|operator| rest.starts_with(operator));
    let operator = operator.ok_or_else(none)?;
    let rest = rest.strip_prefix(operator).unwrap_or_default().trim_start();
    let (value, after) = match rest.strip_prefix('"') {
        Some(quoted) => unquoted(quoted).ok_or_else(|| format!("{rest:?}: the quote is not closed"))?,
        None => {
            let end = rest.find(',').unwrap_or(rest.len());
            let (value, after) = rest.split_at(end);
            (value.trim_end().to_owned(), after)
        }
    };
    Ok((Matcher::new(name.trim(), operator, value)?, after))
}

/// The text up to the closing quote, and what follows that. Other escapes than \" \\ \n stay as they are: patterns have them.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.chars();
    loop {
        match rest.next()? {
            '"' => return Some((value, rest.as_str())),
            '\\' => match rest.next()? {
                'n' => value.push('\n'),
                c @ ('"' | '\\') => value.push(c),
                other => value.extend(['\\', other]),
            },
            c => value.push(c),
        }
    }
}

impl Serialize for Matcher {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let plain = Plain {
            name: self.inner.label.clone(),
            value: self.value.clone(),
            is_regex: self.operator().ends_with('~'),
            is_equal: !self.operator().starts_with('!'),
        };
        plain.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Matcher {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let plain = Plain::deserialize(deserializer)?;
        let operator = match (plain.is_regex, plain.is_equal) {
            (false, true) => "=",
            (false, false) => "!=",
            (true, true) => "=~",
            (true, false) => "!~",
        };
        Self::new(&plain.name, operator, plain.value).map_err(D::Error::custom)
    }
}

/// Reads a list of [`MOST`] at most: patterns are compiled while they are read, and one more is not.
pub fn few<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Matcher>, D::Error> {
    struct Few;

    impl<'de> Visitor<'de> for Few {
        type Value = Vec<Matcher>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of {MOST} matchers at most")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut all = Vec::new();
            while weight(&all) < MOST {
                let Some(matcher) = list.next_element()? else {
                    return Ok(all);
                };
                add(&mut all, matcher).map_err(A::Error::custom)?;
            }
            match list.next_element::<IgnoredAny>()? {
                None => Ok(all),
                Some(_) => Err(A::Error::custom(format!("more than {MOST} matchers"))),
            }
        }
    }

    deserializer.deserialize_seq(Few)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matchers_are_read_as_alertmanager_reads_them() {
        let labels = Labels::new([("alertname", "Down"), ("peer", "db-1"), ("q", "a,\"b\\\n")]);
        for (text, fits) in [
            ("alertname=\"Down\"", true),
            ("alertname = Down", true),
            ("alertname=Dow", false),
            ("peer=~db-.*", true),
            ("peer=~db", false),
            ("peer=~\"a|db-1\"", true),
            ("peer!~\"db-\\d\"", false),
            ("nothing=\"\"", true),
            ("nothing!=\"\"", false),
            ("nothing=", true),
            ("{alertname=\"Down\", peer!=\"x\"}", true),
            ("q=\"a,\\\"b\\\\\\n\"", true),
            // As in Alertmanager a dot is no line end.
            ("q=~\"a.*\"", false),
            ("q=~\"(?s)a.*\"", true),
            ("", true),
            ("{}", true),
        ] {
            let matchers = parse(text).unwrap();
            assert_eq!(accepts(&matchers, &labels), fits, "{text}");
        }
        assert_eq!(
            shown(&parse("b!~x,a=\"q\\\"\"").unwrap()),
            "{b!~\"x\",a=\"q\\\"\"}"
        );
    }

    #[test]
    fn what_is_no_matcher_is_told_why() {
        for (text, why) in [
            ("alertname", "has none of = != =~ !~"),
            ("a-b=c", "\"a-b\" is no name of a label"),
            ("=c", "is no name"),
            ("a=~\"(\"", "is no regular expression: error: unclosed group"),
            ("a=~\"(((.{500}){500}){500})\"", "is too large: compiled it takes"),
            ("a=~\".{4000}\"", "is too large: compiled it takes"),
            ("a=~\"a\\", "the quote is not closed"),
            ("a=\"b", "the quote is not closed"),
            ("{a=b", "the brace is not closed"),
            ("a=\"b\" c=\"d\"", "a comma is missing"),
            ("a!b", "has none of"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why) && !error.contains('\n'), "{text}: {error}");
        }
        assert!("a=b,c=d".parse::<Matcher>().is_err());
    }

    /// Cause: patterns as people write them for Alertmanager. Seen: they are taken, and fit what they fit there: classes are of ASCII.
    /// With those of Unicode two of them were more than the bound, and said to be no regular expressions.
    #[test]
    fn patterns_of_alertmanager_are_taken() {
        for (pattern, value, fits) in [
            (r"\w+-\w+", "db-1", true),
            (r"(\w+\.)+\w+:\d+", "a.example.org:443", true),
            (r"[\w.-]{1,255}", "a-b.c", true),
            (r"[\w-.]+", "a-b.c", true),
            (r"[^\s\d]+", "a b", false),
            (r"[^\s\d]+", "ab", true),
            (r"\S+\s\S+", "é b", true),
            (r"\W\D", "éé", true),
            (r"\w", "é", false),
            (r"\d", "٣", false),
            (r"\\w", r"\w", true),
            (r"(?i)\w+", "DB", true),
            (r".{1,255}", "a", true),
            (r"\w{1000}|(\w+[.-]){100}", "a", false),
        ] {
            let matcher = Matcher::new("a", "=~", pattern.to_owned()).unwrap();
            let labels = Labels::new([("a", value)]);
            assert_eq!(matcher.accepts(&labels), fits, "{pattern} {value}");
            let json = serde_json::to_value(&matcher).unwrap();
            assert_eq!(json["value"], pattern, "as it was written");
        }
    }

    #[test]
    fn no_pattern_beyond_the_bound_is_compiled() {
        let list = |valid: usize, then: &str| {
            let valid = r#"{"name":"a","value":"(\\w+)-[a-z]{8}","isRegex":true}"#.repeat(valid);
            let text = format!("[{}{then}]", valid.replace("}{", "},{"));
            few(&mut serde_json::Deserializer::from_str(&text))
        };
        assert_eq!(list(MOST, "").unwrap().len(), MOST);
        // It would say that this is no regular expression.
        let error = list(MOST, r#",{"name":"a","value":"(","isRegex":true}"#).unwrap_err();
        assert!(error.to_string().contains("more than 64"), "{error}");
        let text = format!("{}a=~(", "a=b,".repeat(MOST));
        assert_eq!(parse(&text).unwrap_err(), "more than 64 matchers");
        assert_eq!(parse(&"a=b,".repeat(MOST)).unwrap().len(), MOST);
        // What all patterns of a list take stays what it was before there were large ones.
        let large = |count: usize| parse(&"a=~\".{1,255}\",".repeat(count));
        let room = MOST * SMALL / LARGE;
        assert_eq!(large(room).unwrap().len(), room);
        let error = large(room + 1).unwrap_err();
        assert!(error.contains("more than 64 matchers"), "{error}");
        let error = parse(&format!("a=b,{}", "a=~\".{1,255}\",".repeat(room))).unwrap_err();
        assert!(error.contains("counts for 8"), "{error}");
    }

    /// Cause: silences are listed with filters. Seen: what Alertmanager's `matchFilterLabels` takes; only a filter that was one of the
    /// matchers themselves had found any.
    #[test]
    fn silences_are_filtered_by_the_values_of_their_matchers() {
        let own = parse("alertname=Down,peer=~\"db-.*\",zone=a,zone=b,empty=\"\"").unwrap();
        for (filter, passed) in [
            ("", true),
            ("alertname=Down", true),
            ("alertname=~\"Do.*\"", true),
            ("alertname=~\"Do\"", false),
            ("alertname!=Up", true),
            ("alertname!~\"D.*\"", false),
            // What the pattern says, not what it fits.
            ("peer=db-1", false),
            ("peer=\"db-.*\"", true),
            ("zone=b", true),
            ("zone=a", false),
            ("nothing=\"\"", true),
            ("nothing!=\"\"", false),
            ("nothing=x", false),
            ("nothing!=x", true),
            ("empty!=\"\"", true),
            ("alertname=Down,peer=x", false),
        ] {
            assert_eq!(passes(&own, &parse(filter).unwrap()), passed, "{filter}");
        }
    }

    #[test]
    fn json_is_that_of_the_api() {
        let matcher: Matcher = "peer!~\"a.*\"".parse().unwrap();
        let json = serde_json::to_string(&matcher).unwrap();
        assert_eq!(
            json,
            "{\"name\":\"peer\",\"value\":\"a.*\",\"isRegex\":true,\"isEqual\":false}"
        );
        assert_eq!(serde_json::from_str::<Matcher>(&json).unwrap(), matcher);
        // Older clients have no isEqual.
        let old: Matcher =
            serde_json::from_str("{\"name\":\"a\",\"value\":\"b\",\"isRegex\":false}").unwrap();
        assert_eq!(old, Matcher::equal("a", "b"));
        assert!(
            serde_json::from_str::<Matcher>("{\"name\":\"a\",\"value\":\"(\",\"isRegex\":true}").is_err()
        );
    }
}
