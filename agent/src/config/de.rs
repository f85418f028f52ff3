//! From the tree to typed settings, by serde. Every error learns the place and the path of its value.

use super::error::{Problem, What};
use super::node::{Node, Value};
use serde::de::{self, DeserializeSeed, IntoDeserializer as _, Visitor};
use std::rc::Rc;

/// Reads settings from the tree.
pub(super) fn from_node<T: de::DeserializeOwned>(root: &Node) -> Result<T, Problem> {
    T::deserialize(De {
        node: root,
        path: &Path::Root,
    })
}

/// Way from the root, as a list on the stack.
enum Path<'p> {
    Root,
    Part(&'p Path<'p>, String),
}

impl Path<'_> {
    fn parts(&self) -> Vec<String> {
        match self {
            Self::Root => Vec::new(),
            Self::Part(parent, part) => {
                let mut parts = parent.parts();
                parts.push(part.clone());
                parts
            }
        }
    }
}

#[derive(Clone, Copy)]
struct De<'a> {
    node: &'a Node,
    path: &'a Path<'a>,
}

impl De<'_> {
    fn expected<T>(self, what: &str) -> Result<T, Problem> {
        Err(self.place(Problem::text(format!(
            "expected {what}, found {}",
            self.node.describe()
        ))))
    }

    /// Adds place and path; and the value, to messages of types that do not repeat it.
    fn place(self, mut problem: Problem) -> Problem {
        if let (What::Text(text), None, Value::Scalar { .. }) =
            (&mut problem.what, &problem.origin, &self.node.value)
            && !text.contains("found")
        {
            text.push_str(", found ");
            text.push_str(&self.node.describe());
        }
        problem.or_at(&self.node.origin, || self.path.parts())
    }

    fn number<T: std::str::FromStr>(self) -> Option<T> {
        match &self.node.value {
            Value::Scalar { text, .. } => text.parse().ok(),
            _ => None,
        }
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            match self.number::<$type>() {
                Some(number) => visitor.$visit(number).map_err(|e| self.place(e)),
                None => self.expected(&format!("a whole number from {} to {}", <$type>::MIN, <$type>::MAX)),
            }
        }
    )*};
}

impl<'de> de::Deserializer<'de> for De<'_> {
    type Error = Problem;

    integers! {
        deserialize_u8 visit_u8 u8;
        deserialize_u16 visit_u16 u16;
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
        deserialize_i8 visit_i8 i8;
        deserialize_i16 visit_i16 i16;
        deserialize_i32 visit_i32 i32;
        deserialize_i64 visit_i64 i64;
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Null => visitor.visit_unit().map_err(|e| self.place(e)),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
            Value::Scalar { plain: true, text } if matches!(text.as_str(), "true" | "false") => {
                self.deserialize_bool(visitor)
            }
            Value::Scalar { plain: true, .. } if self.number::<u64>().is_some() => {
                self.deserialize_u64(visitor)
            }
            Value::Scalar { plain: true, .. } if self.number::<i64>().is_some() => {
                self.deserialize_i64(visitor)
            }
            Value::Scalar { plain: true, .. } if self.number::<f64>().is_some_and(f64::is_finite) => {
                self.deserialize_f64(visitor)
            }
            Value::Scalar { .. } => self.deserialize_str(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let found = match &self.node.value {
            Value::Scalar { text, .. } => text.as_str(),
            _ => "",
        };
        match found {
            "true" | "True" | "TRUE" => visitor.visit_bool(true).map_err(|e| self.place(e)),
            "false" | "False" | "FALSE" => visitor.visit_bool(false).map_err(|e| self.place(e)),
            _ => self.expected("true or false"),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.number::<f64>().filter(|n| n.is_finite()) {
            Some(number) => visitor.visit_f64(number).map_err(|e| self.place(e)),
            None => self.expected("a number"),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Scalar { text, .. } => visitor.visit_str(text).map_err(|e| self.place(e)),
            _ => self.expected("text"),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let items: &[Rc<Node>] = match &self.node.value {
            Value::List(items) => items,
            Value::Null => &[],
            _ => return self.expected("a list"),
        };
        visitor
            .visit_seq(Items {
                items: items.iter().enumerate(),
                path: self.path,
            })
            .map_err(|e| self.place(e))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        let entries = match &self.node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null => &[],
            _ => return self.expected("keys with values"),
        };
        let entries = Entries {
            entries: entries.iter(),
            value: None,
            path: self.path,
        };
        visitor.visit_map(entries).map_err(|e| self.place(e))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        known: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Scalar { text, .. } => visitor
                .visit_enum(text.as_str().into_deserializer())
                .map_err(|e| self.place(e)),
            _ => self.expected(&format!("one of {}", known.join(", "))),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

struct Items<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Rc<Node>>>,
    path: &'a Path<'a>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Problem;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Problem> {
        let Some((index, node)) = self.items.next() else {
            return Ok(None);
        };
        let path = Path::Part(self.path, format!("[{index}]"));
        let de = De { node, path: &path };
        seed.deserialize(de).map(Some).map_err(|e| de.place(e))
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, (super::node::Key, Rc<Node>)>,
    value: Option<(&'a str, &'a Node)>,
    path: &'a Path<'a>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Problem> {
        let Some((key, node)) = self.entries.next() else {
            return Ok(None);
        };
        self.value = Some((&key.text, node));
        let key_de: de::value::StrDeserializer<'_, Problem> = key.text.as_str().into_deserializer();
        seed.deserialize(key_de)
            .map(Some)
            .map_err(|e| e.or_at(&key.origin, || self.path.parts()))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        let Some((key, node)) = self.value.take() else {
            return Err(Problem::text("a value without a key"));
        };
        let path = Path::Part(self.path, key.to_owned());
        let de = De { node, path: &path };
        seed.deserialize(de).map_err(|e| de.place(e))
    }
}
