//! Go's `printf`.

use super::number;
use super::value::Value;

/// A directive between `%` and its verb.
#[derive(Default)]
struct Directive {
    minus: bool,
    plus: bool,
    space: bool,
    zero: bool,
    sharp: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// No directive makes more than this.
const WIDEST: usize = 1000;

pub(super) fn printf(format: &str, args: &[Value]) -> String {
    let mut out = String::with_capacity(format.len());
    let mut chars = format.chars().peekable();
    let mut args_left = args.iter();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = Directive::default();
        while let Some(flag) = chars.next_if(|c| "-+ 0#".contains(*c)) {
            match flag {
                '-' => directive.minus = true,
                '+' => directive.plus = true,
                ' ' => directive.space = true,
                '0' => directive.zero = true,
                _ => directive.sharp = true,
            }
        }
        directive.width = count(&mut chars, &mut args_left);
        if chars.next_if_eq(&'.').is_some() {
            directive.precision = Some(count(&mut chars, &mut args_left).unwrap_or(0));
        }
        match chars.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(verb) => match args_left.next() {
                None => out.push_str(&format!("%!{verb}(MISSING)")),
                Some(arg) => out.push_str(&pad(&directive, one(&directive, verb, arg), arg)),
            },
        }
    }
    let extra: Vec<String> = args_left
        .map(|arg| format!("{}={}", arg.kind(), shown(arg)))
        .collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

fn count<'a>(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    args: &mut impl Iterator<Item = &'a Value>,
) -> Option<usize> {
    if chars.next_if_eq(&'*').is_some() {
        return match args.next() {
            Some(Value::Int(count)) => usize::try_from(*count).ok().map(|count| count.min(WIDEST)),
            _ => None,
        };
    }
    let mut digits = None;
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        let digit = usize::try_from(digit.to_digit(10)?).ok()?;
        digits = Some((digits.unwrap_or(0) * 10 + digit).min(WIDEST));
    }
    digits
}

fn one(directive: &Directive, verb: char, arg: &Value) -> String {
    let signed = |text: String| {
        if text.starts_with(['-', '+']) {
            text
        } else if directive.plus {
            format!("+{text}")
        } else if directive.space {
            format!(" {text}")
        } else {
            text
        }
    };
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("{byte:02x}")).collect() };
    match (verb, arg) {
        ('v', Value::Nil) => "<nil>".to_owned(),
        ('v', Value::Float(value)) => number::float(*value, 'g', directive.precision),
        ('q', Value::Text(text)) => quote(&cut(directive, text)),
        ('v' | 's', Value::Text(text)) => cut(directive, text),
        ('v', _) | ('t', Value::Bool(_)) | ('s', Value::Texts(_)) => arg.to_text(),
        ('d', Value::Int(value)) => signed(value.to_string()),
        ('x', Value::Int(value)) => radix(directive, *value, "0x", |value| format!("{value:x}")),
        ('X', Value::Int(value)) => radix(directive, *value, "0X", |value| format!("{value:X}")),
        ('o', Value::Int(value)) => radix(directive, *value, "0", |value| format!("{value:o}")),
        ('b', Value::Int(value)) => radix(directive, *value, "0b", |value| format!("{value:b}")),
        ('c', Value::Int(value)) => {
            let c = u32::try_from(*value).ok().and_then(char::from_u32);
            c.unwrap_or(char::REPLACEMENT_CHARACTER).to_string()
        }
        ('x', Value::Text(text)) => hex(text.as_bytes()),
        ('X', Value::Text(text)) => hex(text.as_bytes()).to_uppercase(),
        ('f' | 'F', Value::Float(value)) => {
            signed(number::float(*value, 'f', Some(directive.precision.unwrap_or(6))))
        }
        ('e' | 'E', Value::Float(value)) => {
            let text = signed(number::float(*value, 'e', Some(directive.precision.unwrap_or(6))));
            if verb == 'E' { text.replace('e', "E") } else { text }
        }
        ('g' | 'G', Value::Float(value)) => {
            let text = signed(number::float(*value, 'g', directive.precision));
            if verb == 'G' { text.replace('e', "E") } else { text }
        }
        (_, Value::Nil) => format!("%!{verb}(<nil>)"),
        _ => format!("%!{verb}({}={})", arg.kind(), shown(arg)),
    }
}

fn cut(directive: &Directive, text: &str) -> String {
    match directive.precision {
        Some(most) => text.chars().take(most).collect(),
        None => text.to_owned(),
    }
}

fn radix(directive: &Directive, value: i64, prefix: &str, write: impl Fn(u64) -> String) -> String {
    let sign = if value < 0 {
        "-"
    } else if directive.plus {
        "+"
    } else {
        ""
    };
    let prefix = if directive.sharp { prefix } else { "" };
    format!("{sign}{prefix}{}", write(value.unsigned_abs()))
}

fn shown(arg: &Value) -> String {
    match arg {
        Value::Nil => "<nil>".to_owned(),
        other => other.to_text(),
    }
}

fn pad(directive: &Directive, text: String, arg: &Value) -> String {
    let Some(missing) = directive
        .width
        .and_then(|width| width.checked_sub(text.chars().count()))
    else {
        return text;
    };
    if directive.minus {
        return text + &" ".repeat(missing);
    }
    let finite = !matches!(arg, Value::Float(value) if !value.is_finite());
    if directive.zero && finite {
        let signs =
            usize::from(matches!(arg, Value::Int(_) | Value::Float(_)) && text.starts_with(['-', '+', ' ']));
        let (sign, digits) = text.split_at(signs);
        return format!("{sign}{}{digits}", "0".repeat(missing));
    }
    " ".repeat(missing) + &text
}

/// Go's `%q`.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
