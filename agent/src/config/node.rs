//! YAML as a tree that knows where each value was given.

use super::error::{Origin, Problem, quote};
use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use std::collections::HashMap;
use std::rc::Rc;

/// Deepest nesting.
const DEEPEST: usize = 32;
/// Most values, those that aliases repeat included.
const MOST: usize = 100_000;

/// A value and where it was given.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub value: Value,
    pub origin: Origin,
}

/// Scalars stay text: what they mean depends on what is expected.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Scalar { text: String, plain: bool },
    List(Vec<Rc<Node>>),
    Map(Vec<(Key, Rc<Node>)>),
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub text: String,
    pub origin: Origin,
}

impl Node {
    /// A value that YAML would read from plain text; empty text stays text.
    pub fn scalar(text: &str, origin: Origin) -> Self {
        Self {
            value: Value::Scalar {
                text: text.to_owned(),
                plain: true,
            },
            origin,
        }
    }

    /// What the value is, for messages.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Scalar { text, .. } => quote(text),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "keys with values".to_owned(),
        }
    }

    /// Where the value at a path was given, or the nearest one that holds it.
    pub fn origin_of(&self, path: &[String]) -> &Origin {
        let Some((first, rest)) = path.split_first() else {
            return &self.origin;
        };
        let child = match &self.value {
            Value::Map(entries) => entries
                .iter()
                .find(|(key, _)| key.text == *first)
                .map(|(_, node)| node),
            Value::List(items) => index(first).and_then(|i| items.get(i)),
            _ => None,
        };
        child.map_or(&self.origin, |child| child.origin_of(rest))
    }
}

/// The number in `[3]` or `3`.
pub(super) fn index(part: &str) -> Option<usize> {
    part.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// A collection that is not complete yet.
struct Open {
    node: Node,
    /// The key whose value comes next.
    key: Option<Key>,
    seen: HashMap<String, usize>,
    anchor: usize,
    size: usize,
    depth: usize,
}

struct Reader<'o> {
    origin: &'o dyn Fn(usize) -> Origin,
    open: Vec<Open>,
    anchors: HashMap<usize, (Rc<Node>, usize, usize)>,
    total: usize,
    root: Option<Rc<Node>>,
}

/// Reads one document; an empty one is `Null`. `origin` makes an origin from a line.
pub(super) fn parse(text: &str, origin: &dyn Fn(usize) -> Origin) -> Result<Node, Problem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // The parser would take NUL for the end.
    if let Some((at, c)) = text
        .char_indices()
        .find(|(_, c)| c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
    {
        let line = 1 + text.bytes().take(at).filter(|b| *b == b'\n').count();
        let text = format!("the control character U+{:04X} is not allowed", u32::from(c));
        return Err(Problem {
            origin: Some(origin(line)),
            ..Problem::text(text)
        });
    }
    let mut reader = Reader {
        origin,
        open: Vec::new(),
        anchors: HashMap::new(),
        total: 0,
        root: None,
    };
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| {
            let text = format!("not valid YAML: {}", e.info());
            Problem {
                origin: Some(origin(e.marker().line())),
                ..Problem::text(text)
            }
        })?;
        if matches!(event, Event::DocumentStart(_)) {
            documents += 1;
            if documents > 1 {
                return Err(reader.problem(span, "a second document begins, only one is read"));
            }
        }
        reader.take(event, span)?;
    }
    let empty = Node {
        value: Value::Null,
        origin: origin(1),
    };
    Ok(reader.root.map_or(empty, |root| (*root).clone()))
}

impl Reader<'_> {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let origin = (self.origin)(span.start.line());
        let (Event::Scalar(.., ref tag) | Event::SequenceStart(_, ref tag) | Event::MappingStart(_, ref tag)) =
            event
        else {
            return match event {
                Event::SequenceEnd | Event::MappingEnd => self.close(span),
                Event::Alias(id) => match self.anchors.get(&id) {
                    Some((node, size, depth)) => {
                        let (node, size, depth) = (node.clone(), *size, *depth);
                        self.add(node, size, depth, span)
                    }
                    None => Err(self.problem(span, "an alias refers to what holds it")),
                },
                _ => Ok(()),
            };
        };
        if tag.is_some() {
            return Err(self.problem(span, "tags (!…) are not supported"));
        }
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let plain = style == ScalarStyle::Plain;
                let null = plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let text = text.into_owned();
                if let Some(open) = self.open.last_mut().filter(|o| o.key.is_none() && o.is_map()) {
                    if let Some(first) = open.seen.insert(text.clone(), span.start.line()) {
                        let text = format!("the key {} is given twice, first in line {first}", quote(&text));
                        return Err(self.problem(span, &text));
                    }
                    open.key = Some(Key { text, origin });
                    return Ok(());
                }
                let value = if null {
                    Value::Null
                } else {
                    Value::Scalar { text, plain }
                };
                let node = Rc::new(Node { value, origin });
                if anchor > 0 {
                    self.anchors.insert(anchor, (node.clone(), 1, 1));
                }
                self.add(node, 1, 1, span)
            }
            Event::SequenceStart(anchor, _) => self.begin(Value::List(Vec::new()), anchor, origin, span),
            Event::MappingStart(anchor, _) => self.begin(Value::Map(Vec::new()), anchor, origin, span),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, value: Value, anchor: usize, origin: Origin, span: Span) -> Result<(), Problem> {
        if self
            .open
            .last()
            .is_some_and(|open| open.is_map() && open.key.is_none())
        {
            return Err(self.problem(span, "a key must be text"));
        }
        if self.open.len() >= DEEPEST {
            return Err(self.problem(span, &format!("nested deeper than {DEEPEST} levels")));
        }
        let node = Node { value, origin };
        self.open.push(Open {
            node,
            key: None,
            seen: HashMap::new(),
            anchor,
            size: 1,
            depth: 1,
        });
        Ok(())
    }

    fn close(&mut self, span: Span) -> Result<(), Problem> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let node = Rc::new(open.node);
        if open.anchor > 0 {
            self.anchors
                .insert(open.anchor, (node.clone(), open.size, open.depth));
        }
        // Its parts were counted when they came.
        self.total = self.total.saturating_sub(open.size - 1);
        self.add(node, open.size, open.depth, span)
    }

    fn add(&mut self, node: Rc<Node>, size: usize, depth: usize, span: Span) -> Result<(), Problem> {
        self.total = self.total.saturating_add(size);
        if self.total > MOST {
            return Err(self.problem(
                span,
                &format!("more than {MOST} values, those that aliases repeat included"),
            ));
        }
        if self.open.len() + depth > DEEPEST + 1 {
            return Err(self.problem(span, &format!("nested deeper than {DEEPEST} levels")));
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.size += size;
        open.depth = open.depth.max(depth + 1);
        match (&mut open.node.value, open.key.take()) {
            (Value::Map(entries), Some(key)) => entries.push((key, node)),
            (Value::List(items), _) => items.push(node),
            _ => return Err(self.problem(span, "a key must be text")),
        }
        Ok(())
    }

    fn problem(&self, span: Span, text: &str) -> Problem {
        let keys = self.open.iter().filter_map(|open| match &open.node.value {
            Value::List(items) => Some(format!("[{}]", items.len())),
            _ => open.key.as_ref().map(|key| key.text.clone()),
        });
        let origin = Some((self.origin)(span.start.line()));
        Problem {
            origin,
            path: keys.collect(),
            ..Problem::text(text)
        }
    }
}

impl Open {
    fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }
}
