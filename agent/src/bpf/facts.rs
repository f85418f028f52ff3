//! What the running kernel's types say that the programs must know before they are loaded.

use super::btf::KernelTypes;
use super::fields::{FIELDS, Group};
use std::collections::HashMap;
use std::path::Path;

/// Offsets, numbers and names of this kernel; what could not be found is zero, or named as missing.
#[derive(Default)]
pub(super) struct Facts {
    /// Global of the programs → offset of its field, bytes.
    pub offsets: Vec<(&'static str, u32)>,
    /// Paths that this kernel does not have, by [`group_name`].
    pub missing: HashMap<&'static str, Vec<&'static str>>,
    /// No types could be read at all.
    pub no_types: bool,
    /// Number → name of `skb_drop_reason`, without its prefix.
    pub drop_reasons: HashMap<u32, String>,
    /// `SKB_CONSUMED`.
    pub consumed: u32,
    /// `SKB_DROP_REASON_QUEUE_PURGE`.
    pub queue_purge: u32,
    /// `RQF_FLUSH_SEQ`, a bit.
    pub rq_flush_seq: u32,
    /// 1 = `kfree_skb`'s tracepoint tells the receiving socket.
    pub kfree_has_socket: u32,
    /// 1 = `tcp_retransmit_skb`'s tracepoint tells tries that failed as well.
    pub retransmit_has_error: u32,
    /// Parameters of `inet_csk_accept`.
    pub accept_parameters: u32,
}

impl Facts {
    /// Reads the types at `path`; an error is logged, and everything that needs them is missing.
    pub fn of(path: &Path) -> Self {
        let mut facts = Self::default();
        match KernelTypes::load(path) {
            Ok(types) => {
                for field in FIELDS.iter().filter(|field| !field.path.is_empty()) {
                    let found = types.resolve(field.path).and_then(|m| {
                        let inside = if field.inside.is_empty() {
                            0
                        } else {
                            types.resolve(field.inside)?.offset
                        };
                        (field.size == 0 || field.size == m.size).then_some(m.offset + inside)
                    });
                    match found {
                        Some(offset) => facts.offsets.push((field.global, offset)),
                        None => facts
                            .missing
                            .entry(group_name(field.group))
                            .or_default()
                            .push(field.path),
                    }
                }
                for (value, name) in types.enumerators("skb_drop_reason") {
                    match name.as_str() {
                        "SKB_CONSUMED" => facts.consumed = value,
                        "SKB_DROP_REASON_QUEUE_PURGE" => facts.queue_purge = value,
                        _ => {}
                    }
                    let short = name
                        .strip_prefix("SKB_DROP_REASON_")
                        .or_else(|| name.strip_prefix("SKB_"));
                    facts
                        .drop_reasons
                        .insert(value, short.unwrap_or(&name).to_owned());
                }
                // An enum since 6.11; before, a number in a header only: bit 4.
                let flags = types.enumerators("rqf_flags");
                let sequence = flags.iter().find(|(_, name)| name == "__RQF_FLUSH_SEQ");
                facts.rq_flush_seq = 1 << sequence.map_or(4, |(bit, _)| *bit).min(31);
                facts.kfree_has_socket = u32::from(types.tracepoint_arguments("kfree_skb") >= Some(4));
                let arguments = types.tracepoint_arguments("tcp_retransmit_skb");
                facts.retransmit_has_error = u32::from(arguments >= Some(3));
                facts.accept_parameters = types.function_parameters("inet_csk_accept").unwrap_or(0);
            }
            Err(e) => {
                facts.no_types = true;
                tracing::warn!("{e}; programs that need kernel types are off");
                for field in FIELDS.iter().filter(|field| !field.path.is_empty()) {
                    facts
                        .missing
                        .entry(group_name(field.group))
                        .or_default()
                        .push(field.path);
                }
            }
        }
        facts
    }
}

pub(super) const fn group_name(group: Group) -> &'static str {
    match group {
        Group::Sock => "sock",
        Group::Tcp => "tcp",
        Group::Skb => "skb",
        Group::Dev => "dev",
        Group::Task => "task",
        Group::Sched => "sched",
        Group::Registers => "registers",
        Group::File => "file",
        Group::Block => "block",
        Group::Path => "path",
    }
}
