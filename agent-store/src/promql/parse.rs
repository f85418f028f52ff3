//! From a query's text to a tree that can be evaluated: what the parser takes but Prometheus does not is refused here.

use super::Error;
use crate::series::{Comparison, Matcher, Millis};
use promql_parser::label::{MatchOp, Matchers};
use promql_parser::parser::token::{T_LIMIT_RATIO, T_LIMITK};
use promql_parser::parser::value::ValueType;
use promql_parser::parser::{
    self, AtModifier, Expr, Function, Offset, VectorSelector, register_extra_functions,
};
use promql_parser::util::{ExprVisitor, walk_expr};
use std::convert::Infallible;
use std::sync::Once;
use std::time::{Duration, SystemTime};

/// Operators, brackets, words and strings of a query: how deep its tree can be. Evaluation is recursive.
const MOST_PARTS: usize = 2_000;

/// Parses and checks a query.
pub(super) fn parse(query: &str) -> Result<Expr, Error> {
    static EXTRA: Once = Once::new();
    EXTRA.call_once(|| {
        // The name until Prometheus 3; the parser knows only the new one. It fails only where the name is known already.
        let arguments = vec![ValueType::Matrix, ValueType::Scalar, ValueType::Scalar];
        let function = Function::new("holt_winters", arguments, 0, ValueType::Vector, false);
        let _ = register_extra_functions(vec![function]);
    });
    if query.trim().is_empty() {
        return Err(Error::parse("no expression found in input"));
    }
    let parts = parts(query);
    if parts > MOST_PARTS {
        return Err(Error::parse(format!(
            "the expression has {parts} operators, brackets, words and strings, {MOST_PARTS} are the most"
        )));
    }
    // The parser panics where a number that is a duration does not fit into one, as in `x offset 1e30`. Nothing of it is
    // used afterwards.
    let expr = std::panic::catch_unwind(|| parser::parse(query))
        .unwrap_or_else(|_| Err("the parser failed, as it does when a duration is out of range".to_owned()))
        .map_err(Error::parse)?;
    check(&expr)?;
    Ok(expr)
}

/// Parses a selector, as the parameters `match[]` of the HTTP API are.
pub fn selector(text: &str) -> Result<Vec<Matcher>, Error> {
    super::with_room(text, || match parse(text)? {
        Expr::VectorSelector(selector) if selector.offset.is_none() && selector.at.is_none() => {
            Ok(matchers(&selector))
        }
        _ => Err(Error::parse(format!(
            "{text:?} is not a selector like up{{job=\"x\"}}"
        ))),
    })
}

/// The conditions of each selector of a query.
pub fn selectors(query: &str) -> Result<Vec<Vec<Matcher>>, Error> {
    struct Found(Vec<Vec<Matcher>>);
    impl ExprVisitor for Found {
        type Error = Infallible;
        fn pre_visit(&mut self, expr: &Expr) -> Result<bool, Infallible> {
            match expr {
                Expr::VectorSelector(selector) => self.0.push(matchers(selector)),
                Expr::MatrixSelector(range) => self.0.push(matchers(&range.vs)),
                _ => {}
            }
            Ok(true)
        }
    }
    super::with_room(query, || {
        let (mut found, expr) = (Found(Vec::new()), parse(query)?);
        let Ok(_) = walk_expr(&mut found, &expr);
        Ok(found.0)
    })
}

/// Whether a query has `@ start()` or `@ end()`: what it comes to at a time depends on the range that it is asked over then.
pub fn is_of_range(query: &str) -> Result<bool, Error> {
    struct Found(bool);
    impl ExprVisitor for Found {
        type Error = Infallible;
        fn pre_visit(&mut self, expr: &Expr) -> Result<bool, Infallible> {
            let at = match expr {
                Expr::VectorSelector(selector) => &selector.at,
                Expr::MatrixSelector(range) => &range.vs.at,
                Expr::Subquery(subquery) => &subquery.at,
                _ => &None,
            };
            self.0 |= matches!(at, Some(AtModifier::Start | AtModifier::End));
            Ok(!self.0)
        }
    }
    super::with_room(query, || {
        let (mut found, expr) = (Found(false), parse(query)?);
        let Ok(_) = walk_expr(&mut found, &expr);
        Ok(found.0)
    })
}

/// How many operators, brackets, words and strings there are. No step down the tree is made without one of them, so the
/// tree is not deeper than this. Where strings, comments and braces end is as the parser's lexer sees it: what only one of
/// the two took for a comment would not be counted.
pub(super) fn parts(query: &str) -> usize {
    let (mut parts, mut quote, mut escaped, mut word) = (0, None, false, false);
    let (mut comment, mut braces) = (false, false);
    for c in query.chars() {
        if let Some(q) = quote {
            if escaped {
                escaped = false;
            } else if c == '\\' {
                // Within backticks too, although it stands for itself there.
                escaped = true;
            } else if c == q {
                quote = None;
            }
            continue;
        }
        if comment {
            comment = !matches!(c, '\n' | '\r');
            continue;
        }
        let in_word = c.is_alphanumeric() || matches!(c, '_' | ':' | '.');
        let counts = match c {
            '#' => {
                comment = true;
                false
            }
            '"' | '\'' | '`' => {
                quote = Some(c);
                true
            }
            '{' => {
                braces = true;
                true
            }
            '}' => {
                braces = false;
                false
            }
            // Between braces is a flat list.
            '=' | '!' => !braces,
            '+' | '-' | '*' | '/' | '%' | '^' | '<' | '>' | '(' | '[' | '@' => true,
            _ => in_word && !word,
        };
        parts += usize::from(counts);
        word = in_word;
    }
    parts
}

fn check(expr: &Expr) -> Result<(), Error> {
    match expr {
        Expr::Aggregate(e) => {
            if matches!(e.op.id(), T_LIMITK | T_LIMIT_RATIO) {
                return Err(Error::parse(format!(
                    "{} is experimental and not supported",
                    e.op
                )));
            }
            if let Some(param) = &e.param {
                check(param)?;
            }
            check(&e.expr)
        }
        Expr::Unary(e) => check(&e.expr),
        Expr::Paren(e) => check(&e.expr),
        Expr::Subquery(e) => check(&e.expr),
        Expr::Binary(e) => {
            if let Some(m) = &e.modifier
                && (m.fill_values.lhs.is_some() || m.fill_values.rhs.is_some())
            {
                return Err(Error::parse("modifier fill is not supported"));
            }
            check(&e.lhs)?;
            check(&e.rhs)
        }
        Expr::VectorSelector(e) => check_selector(e),
        Expr::MatrixSelector(e) => check_selector(&e.vs),
        Expr::Call(e) => {
            if !super::functions::is_known(e.func.name) {
                return Err(Error::parse(format!(
                    "unknown function with name {:?}",
                    e.func.name
                )));
            }
            for (at, arg) in e.args.args.iter().enumerate() {
                // The parser lets exp(NaN) and the like pass, although exp takes a vector.
                let wanted = e.func.arg_types.get(at).or(e.func.arg_types.last());
                if wanted.is_some_and(|wanted| *wanted != arg.value_type()) {
                    let (wanted, found) = (wanted.map_or("", |w| type_name(*w)), type_name(arg.value_type()));
                    return Err(Error::parse(format!(
                        "expected type {wanted} in call to function {:?}, got {found}",
                        e.func.name
                    )));
                }
                check(arg)?;
            }
            Ok(())
        }
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => Ok(()),
        Expr::Extension(_) => Err(Error::parse("unsupported expression")),
    }
}

fn check_selector(selector: &VectorSelector) -> Result<(), Error> {
    if selector.matchers.or_matchers.is_empty() {
        return Ok(());
    }
    Err(Error::parse(
        "unexpected \"or\" in label matching, expected \",\" or \"}\"",
    ))
}

/// What Prometheus' documentation calls a type.
pub(super) fn type_name(value: ValueType) -> &'static str {
    match value {
        ValueType::Vector => "instant vector",
        ValueType::Matrix => "range vector",
        ValueType::Scalar => "scalar",
        ValueType::String => "string",
    }
}

/// The conditions of a selector, its name among them.
pub(super) fn matchers(selector: &VectorSelector) -> Vec<Matcher> {
    let mut all = convert(&selector.matchers);
    if let Some(name) = &selector.name {
        // The first: most series fail it, and other conditions may be expressions.
        all.insert(0, Matcher::equal(crate::labels::NAME, name));
    }
    all
}

fn convert(matchers: &Matchers) -> Vec<Matcher> {
    let comparison = |m: &promql_parser::label::Matcher| match &m.op {
        MatchOp::Equal => Comparison::Equal(m.value.clone()),
        MatchOp::NotEqual => Comparison::NotEqual(m.value.clone()),
        MatchOp::Re(pattern) => Comparison::Matches(pattern.clone()),
        MatchOp::NotRe(pattern) => Comparison::MatchesNot(pattern.clone()),
    };
    let convert = |m| Matcher {
        comparison: comparison(m),
        label: m.name.clone(),
    };
    matchers.matchers.iter().map(convert).collect()
}

/// No duration is longer: nine million years, and several of them can be added.
const LONGEST: Millis = 1 << 58;

/// A duration in milliseconds.
pub(super) fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_millis()).map_or(LONGEST, |millis| millis.min(LONGEST))
}

/// An offset in milliseconds: 0 when there is none.
pub(super) fn offset(offset: Option<&Offset>) -> Millis {
    match offset {
        Some(Offset::Pos(duration)) => millis(*duration),
        Some(Offset::Neg(duration)) => -millis(*duration),
        None => 0,
    }
}

/// The time of an `@`; `start()` and `end()` are those of the whole query.
pub(super) fn at(at: Option<&AtModifier>, start: Millis, end: Millis) -> Option<Millis> {
    match at? {
        AtModifier::Start => Some(start),
        AtModifier::End => Some(end),
        AtModifier::At(time) => Some(match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => millis(after),
            Err(before) => -millis(before.duration()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prometheus_does_not_take_is_refused() {
        for query in [
            "",
            "sum(",
            "x{a=\"1\" or b=\"2\"}",
            "ln(NaN)",
            "info(x)",
            "limitk(1, x)",
            "x[5m",
            "sum(x[5m])",
            "\"a\"+1",
        ] {
            let error = parse(query).unwrap_err();
            assert_eq!(error.kind(), "bad_data", "{query}");
        }
    }

    #[test]
    fn what_depends_on_the_range_is_known() {
        for (query, is) in [
            ("up", false),
            ("up @ 5", false),
            ("up{a=\"@ end()\"}", false),
            ("up @ end()", true),
            ("1 + sum(rate(up[5m] @ start()))", true),
            ("max_over_time((up + 1)[5m:1m] @ end())", true),
            ("max_over_time((up @ end())[5m:1m])", true),
            ("max_over_time(up[5m:1m] @ 5 offset 1m)", false),
        ] {
            assert_eq!(is_of_range(query), Ok(is), "{query}");
        }
    }

    #[test]
    fn a_tree_too_deep_to_evaluate_is_refused_before_it_is_made() {
        for deep in [
            "(".repeat(500_000),
            "-".repeat(100_000) + "1",
            "1 or ".repeat(5_000) + "1",
            "{\"m\"}<".repeat(5_000) + "{\"m\"}",
            "{\"m\"}==".repeat(5_000) + "{\"m\"}",
            "{}!={}>=".repeat(5_000),
            "\"m\"[1m:]".repeat(5_000),
            "[".repeat(5_000),
            "@".repeat(5_000),
            // A comment ends at a carriage return.
            "#\r".to_owned() + &"-".repeat(5_000) + "x",
            // Strings end where the lexer ends them: here at the third backtick.
            "`\\` `+".to_owned() + &"-".repeat(5_000) + "x",
        ] {
            assert!(parse(&deep).unwrap_err().to_string().contains("are the most"));
        }
        let words = format!("x{{a=\"{}\"}}", "( ".repeat(5_000));
        assert!(parse(&words).is_ok(), "a string is no tree");
        let sum = "x + ".repeat(400) + "x";
        assert!(parse(&sum).is_ok());
    }

    #[test]
    fn selectors_of_the_api() {
        assert_eq!(selector("up{job=\"a\"}").unwrap().len(), 2);
        assert!(selector("up[5m]").is_err());
        assert!(selector("sum(up)").is_err());
    }
}
