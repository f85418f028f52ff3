//! What the profiles of a request share: each string, file, function, address, stack and attribute once.
//!
//! The first of each table is the empty one: an index of 0 says that there is none.

use crate::stacks::frames::{functions, is_jit};
use crate::stacks::store::{Place, Store};
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value::Value};
use opentelemetry_proto::tonic::profiles::v1development::{
    Function, KeyValueAndUnit, Line, Link, Location, Mapping, ProfilesDictionary, Stack,
};
use std::collections::HashMap;
use std::hash::Hash;

/// Values by number, and their numbers.
struct Table<K, T> {
    values: Vec<T>,
    numbers: HashMap<K, i32>,
}

impl<K: Eq + Hash, T: Default> Table<K, T> {
    fn new() -> Self {
        Self {
            values: vec![T::default()],
            numbers: HashMap::new(),
        }
    }

    fn insert(&mut self, key: K, value: T) -> i32 {
        let number = self.values.len() as i32;
        self.values.push(value);
        self.numbers.insert(key, number);
        number
    }
}
/// The tables in the making.
pub struct Dictionary<'a> {
    store: &'a Store,
    kernel: &'a str,
    strings: Table<String, String>,
    attributes: Table<(&'static str, String), KeyValueAndUnit>,
    mappings: Table<Option<(u32, u64)>, Mapping>,
    functions: Table<(i32, i32, u32), Function>,
    locations: Table<u32, Location>,
    stacks: Table<Vec<i32>, Stack>,
}

impl<'a> Dictionary<'a> {
    /// Empty.
    pub fn new(store: &'a Store, kernel: &'a str) -> Self {
        Self {
            store,
            kernel,
            strings: Table::new(),
            attributes: Table::new(),
            mappings: Table::new(),
            functions: Table::new(),
            locations: Table::new(),
            stacks: Table::new(),
        }
    }

    /// Number of a string.
    pub fn string(&mut self, text: &str) -> i32 {
        match self.strings.numbers.get(text) {
            _ if text.is_empty() => 0,
            Some(&number) => number,
            None => self.strings.insert(text.to_owned(), text.to_owned()),
        }
    }

    /// Numbers of some attributes; those without a value are left out.
    pub fn attributes(&mut self, wanted: &[(&'static str, &str)]) -> Vec<i32> {
        let mut numbers = Vec::with_capacity(wanted.len());
        for (name, text) in wanted.iter().filter(|(_, text)| !text.is_empty()) {
            let key = (*name, (*text).to_owned());
            let number = match self.attributes.numbers.get(&key) {
                Some(&number) => number,
                None => {
                    let value = KeyValueAndUnit {
                        key_strindex: self.string(name),
                        value: Some(AnyValue {
                            value: Some(Value::StringValue(key.1.clone())),
                        }),
                        unit_strindex: 0,
                    };
                    self.attributes.insert(key, value)
                }
            };
            numbers.push(number);
        }
        numbers
    }

    /// Number of a stack.
    pub fn stack(&mut self, frames: &[u32]) -> i32 {
        let locations: Vec<i32> = frames.iter().map(|frame| self.location(*frame)).collect();
        match self.stacks.numbers.get(&locations) {
            Some(&number) => number,
            None => {
                let stack = Stack {
                    location_indices: locations.clone(),
                };
                self.stacks.insert(locations, stack)
            }
        }
    }

    fn location(&mut self, frame: u32) -> i32 {
        if let Some(&number) = self.locations.numbers.get(&frame) {
            return number;
        }
        let (mapping_index, address, kind) = match self.store.frame(frame).map(|(place, _)| place) {
            Some(Place::Kernel(address)) => (self.kernel(), address, "kernel"),
            Some(Place::Binary(id, address)) if is_jit(self.store, id) => (0, address, "jit"),
            Some(Place::Binary(id, address)) => (self.mapping(id, address), address, "native"),
            Some(Place::Anonymous(address) | Place::Unknown(address)) => (0, address, ""),
            Some(Place::Python(..)) => (0, 0, "cpython"),
            Some(Place::Cut(_) | Place::Waker(_)) | None => (0, 0, ""),
        };
        // Without a name whoever reads it can find one, by build id and address.
        let store = self.store;
        let lines = match store.python(frame) {
            Some((function, line)) => vec![Line {
                function_index: self.function(&function.name, &function.file, function.line),
                line: i64::from(line),
                ..Line::default()
            }],
            None => functions(store, frame)
                .iter()
                .map(|name| Line {
                    function_index: self.function(name, "", 0),
                    ..Line::default()
                })
                .collect(),
        };
        let location = Location {
            mapping_index,
            address,
            lines,
            attribute_indices: self.attributes(&[("profile.frame.type", kind)]),
        };
        self.locations.insert(frame, location)
    }

    fn function(&mut self, name: &str, file: &str, line: u32) -> i32 {
        let key = (self.string(name), self.string(file), line);
        match self.functions.numbers.get(&key) {
            Some(&number) => number,
            None => {
                let function = Function {
                    name_strindex: key.0,
                    filename_strindex: key.1,
                    start_line: i64::from(line),
                    ..Function::default()
                };
                self.functions.insert(key, function)
            }
        }
    }

    fn kernel(&mut self) -> i32 {
        if let Some(&number) = self.mappings.numbers.get(&None) {
            return number;
        }
        let mapping = Mapping {
            memory_start: crate::stacks::image::KERNEL_START,
            memory_limit: u64::MAX,
            file_offset: 0,
            filename_strindex: self.string("[kernel.kallsyms]"),
            attribute_indices: self.attributes(&[("process.executable.build_id.gnu", self.kernel)]),
        };
        self.mappings.insert(None, mapping)
    }

    /// The part of a file that an address lies in, as it is in the file: addresses are not relocated.
    fn mapping(&mut self, id: u32, address: u64) -> i32 {
        let Some(binary) = self.store.binary(id) else {
            return 0;
        };
        let segment = binary.segment(address);
        let key = Some((id, segment.address));
        if let Some(&number) = self.mappings.numbers.get(&key) {
            return number;
        }
        let mapping = Mapping {
            memory_start: segment.address,
            memory_limit: segment.address.saturating_add(segment.size),
            file_offset: segment.offset,
            filename_strindex: self.string(&binary.path.to_string_lossy()),
            attribute_indices: self.attributes(&[
                ("process.executable.build_id.gnu", &binary.build_id),
                ("process.executable.build_id.htlhash", &binary.identity.hash),
            ]),
        };
        self.mappings.insert(key, mapping)
    }

    /// All that was numbered.
    pub fn finish(self) -> ProfilesDictionary {
        ProfilesDictionary {
            mapping_table: self.mappings.values,
            location_table: self.locations.values,
            function_table: self.functions.values,
            link_table: vec![Link::default()],
            string_table: self.strings.values,
            attribute_table: self.attributes.values,
            stack_table: self.stacks.values,
        }
    }
}
