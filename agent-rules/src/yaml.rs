//! YAML as a tree that knows the line of each value.

use saphyr_parser::{Event, Parser, ScalarStyle};
use std::collections::HashMap;
use std::rc::Rc;

/// Deepest nesting.
const DEEPEST: usize = 32;
/// Most values, those that aliases repeat included.
const MOST: usize = 200_000;

/// A value, and the line in which it begins.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its line, from 1.
    pub line: usize,
    /// What it is.
    pub value: Value,
    /// How many values it is.
    size: usize,
}

/// Scalars stay text: what they mean depends on what is expected.
#[derive(Clone, Debug)]
pub enum Value {
    /// Nothing.
    Null,
    /// Text.
    Scalar(String),
    /// Values in order.
    List(Vec<Rc<Node>>),
    /// Keys with their lines and values, in order, each once.
    Map(Vec<(String, usize, Rc<Node>)>),
}

/// What is wrong, and in which line.
pub type Wrong = (usize, String);

impl Node {
    /// What the value is, for messages.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Scalar(text) => format!("{text:?}"),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "keys with values".to_owned(),
        }
    }
}

/// A collection that is not complete yet, and the key whose value comes next.
struct Open {
    node: Node,
    key: Option<(String, usize)>,
    anchor: usize,
}

#[derive(Default)]
struct Reader {
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    total: usize,
    root: Option<Rc<Node>>,
}

/// Reads one document; an empty one is `Null`.
pub fn parse(text: &str) -> Result<Rc<Node>, Wrong> {
    let mut all = read(text)?.into_iter();
    let first = all.next();
    if let Some((line, _)) = all.next() {
        return Err((line, "a second document begins, only one is read".to_owned()));
    }
    Ok(first.map_or_else(|| node(1, Value::Null), |(_, root)| root))
}

/// Reads all documents, but for empty ones.
pub fn documents(text: &str) -> Result<Vec<Rc<Node>>, Wrong> {
    let roots = read(text)?.into_iter().map(|(_, root)| root);
    Ok(roots.filter(|root| !matches!(root.value, Value::Null)).collect())
}

/// All documents, with the lines in which they begin.
fn read(text: &str) -> Result<Vec<(usize, Rc<Node>)>, Wrong> {
    let text = text.trim_start_matches('\u{feff}');
    // The parser would take NUL for the end.
    if let Some(at) = text.find('\0') {
        let line = 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
        return Err((line, "the control character U+0000 is not allowed".to_owned()));
    }
    let mut reader = Reader::default();
    let (mut all, mut begin) = (Vec::new(), 1);
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let line = error.marker().line();
            (line, format!("not valid YAML: {}", error.info()))
        })?;
        let line = span.start.line();
        if matches!(event, Event::DocumentStart(_)) {
            begin = line;
        }
        let ends = matches!(event, Event::DocumentEnd);
        reader.take(event, line).map_err(|what| (line, what))?;
        if ends {
            all.extend(reader.root.take().map(|root| (begin, root)));
        }
    }
    Ok(all)
}

fn node(line: usize, value: Value) -> Rc<Node> {
    Rc::new(Node { line, value, size: 1 })
}

impl Reader {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let null =
                    style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                if let Some(open) = self.open.last_mut()
                    && let (Value::Map(entries), None) = (&open.node.value, &open.key)
                {
                    if let Some((_, first, _)) = entries.iter().find(|(key, ..)| *key == *text) {
                        return Err(format!("{text:?} is given twice, first in line {first}"));
                    }
                    open.key = Some((text.into_owned(), line));
                    return Ok(());
                }
                let value = if null {
                    Value::Null
                } else {
                    Value::Scalar(text.into_owned())
                };
                self.add(node(line, value), anchor)
            }
            Event::SequenceStart(anchor, _) => self.begin(Value::List(Vec::new()), anchor, line),
            Event::MappingStart(anchor, _) => self.begin(Value::Map(Vec::new()), anchor, line),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(open) => {
                    // Its parts were counted when they came.
                    self.total = self.total.saturating_sub(open.node.size - 1);
                    self.add(Rc::new(open.node), open.anchor)
                }
                None => Ok(()),
            },
            Event::Alias(id) => match self.anchors.get(&id).cloned() {
                Some(node) => self.add(node, 0),
                None => Err("an alias refers to what holds it".to_owned()),
            },
            _ => Ok(()),
        }
    }

    fn begin(&mut self, value: Value, anchor: usize, line: usize) -> Result<(), String> {
        if let Some(open) = self.open.last()
            && let (Value::Map(_), None) = (&open.node.value, &open.key)
        {
            return Err("a key must be text".to_owned());
        }
        if self.open.len() >= DEEPEST {
            return Err(format!("nested deeper than {DEEPEST} levels"));
        }
        let node = Node { line, value, size: 1 };
        self.open.push(Open {
            node,
            key: None,
            anchor,
        });
        Ok(())
    }

    fn add(&mut self, node: Rc<Node>, anchor: usize) -> Result<(), String> {
        // What an alias repeats counts again.
        self.total = self.total.saturating_add(node.size);
        if self.total > MOST {
            return Err(format!(
                "more than {MOST} values, those that aliases repeat included"
            ));
        }
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.node.size = open.node.size.saturating_add(node.size);
        match (&mut open.node.value, open.key.take()) {
            (Value::Map(entries), Some((key, line))) => entries.push((key, line, node)),
            (Value::List(items), _) => items.push(node),
            _ => return Err("a key must be text".to_owned()),
        }
        Ok(())
    }
}
