//! Where a query stops making sense. The parser only says that it does not.

use promql_parser::parser;

/// What the parser says of what has no form at all; its other complaints are about types, and name what they are about.
const FORMLESS: &str = "invalid promql query";
/// With these in turn an unfinished query goes on, brackets that are open are closed, and these end it.
const GO_ON: [&str; 13] = [
    "", "x", "(x)", "(x) (x)", "=\"x\"", "\"x\"", "5m", ":5m", "1", ",x", "x,x)", "x) (x", "x[5m]",
];
const END: [&str; 4] = ["", "(x)", " x", "[5m]"];
/// Of longer ones the place is not looked for: each word is tried out.
const MOST_WORDS: usize = 300;

/// The first word after which nothing makes sense any more, and its first character, from 1; `None` = it only is not finished, or
/// its form is not what is wrong.
pub fn of(query: &str) -> Option<(usize, &str)> {
    if !is_formless(query) {
        return None;
    }
    let words = words(query);
    if words.len() > MOST_WORDS {
        return None;
    }
    let (start, end) = words
        .into_iter()
        .find(|(_, end)| query.get(..*end).is_some_and(|begun| !can_go_on(begun)))?;
    let before = query.get(..start)?;
    Some((before.chars().count() + 1, query.get(start..end)?))
}

fn is_formless(query: &str) -> bool {
    let parse = || parser::lexer(query).is_err() || parser::parse(query).is_err_and(|said| said == FORMLESS);
    // It panics at durations that are out of range.
    std::panic::catch_unwind(parse).unwrap_or(false)
}

/// Whether a query that begins so can still become one.
fn can_go_on(begun: &str) -> bool {
    let mut open = Vec::new();
    let mut quote = None;
    for c in begun.chars() {
        match (quote, c) {
            (Some(q), _) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'' | '`') => quote = Some(c),
            (None, '(') => open.push(')'),
            (None, '{') => open.push('}'),
            (None, '[') => open.push(']'),
            (None, ')' | '}' | ']') if open.pop() != Some(c) => return false,
            _ => {}
        }
    }
    // A string that never ends is an end of its own.
    let close: String = quote.into_iter().chain(open.into_iter().rev()).collect();
    GO_ON
        .iter()
        .flat_map(|on| END.iter().map(move |end| (on, end)))
        .any(|(on, end)| {
            !is_formless(&format!("{begun}{on}{close}{end}"))
                || !is_formless(&format!("{begun} {on}{close}{end}"))
        })
}

/// Begin and end of each word, sign and string.
fn words(query: &str) -> Vec<(usize, usize)> {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '.');
    let mut out: Vec<(usize, usize)> = Vec::new();
    let mut chars = query.char_indices().peekable();
    while let Some((start, c)) = chars.next() {
        let mut end = start + c.len_utf8();
        if c.is_whitespace() {
            continue;
        }
        if matches!(c, '"' | '\'' | '`') {
            while let Some((at, next)) = chars.next() {
                end = at + next.len_utf8();
                match next {
                    '\\' => drop(chars.next()),
                    next if next == c => break,
                    _ => {}
                }
            }
        } else {
            let goes_on = |next: char| {
                is_word(c) && is_word(next) || matches!(c, '=' | '!' | '<' | '>') && matches!(next, '=' | '~')
            };
            while let Some((at, next)) = chars.next_if(|(_, next)| goes_on(*next)) {
                end = at + next.len_utf8();
            }
        }
        out.push((start, end));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn the_first_word_that_is_wrong_is_told() {
        for (query, at) in [
            ("sum(rate(x[5m]))) by (y)", Some((17, ")"))),
            ("sum by (peer (x)", Some((14, "("))),
            ("rate(x{a=\"b\",,}[5m])", Some((14, ","))),
            ("a ++* b", Some((5, "*"))),
            ("x{a=5}", Some((5, "5"))),
            ("x[5m", None),
            ("sum(", None),
            ("rate(x)", None),
            ("histogram_quantile(0.9, sum by (le) (rate(x_bucket[5m])))", None),
            ("x y", Some((3, "y"))),
            ("a / on (b) group_left ) c", Some((23, ")"))),
            ("x + ü{}", Some((5, "ü"))),
        ] {
            assert_eq!(of(query), at, "{query}");
        }
    }
}
