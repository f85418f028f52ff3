//! Programs on devices: tcx links, before 6.6 filters of a clsact qdisc. First in the chain; they only look, and what
//! others have attached stays as it is.
//!
//! A tcx link ends with the process, however it ends. A clsact filter outlives SIGKILL: the next agent removes it by its
//! name. The qdisc itself stays, since others may have begun to use it.

use super::maps::map_data;
use super::{Engine, Spec, State, Verdict, host, sys};
use crate::aggregate::labels::clean;
use crate::bpf::KernelMap;
use crate::error::{Context as _, Result};
use crate::record::Source;
use crate::rtnetlink::Rtnetlink;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, loaded_programs, tc};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};
use std::os::fd::{AsFd as _, AsRawFd as _};

/// Which packets of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// Those that it receives.
    Ingress,
    /// Those that it is to send.
    Egress,
}

impl Way {
    /// As shown.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    const fn aya(self) -> TcAttachType {
        match self {
            Self::Ingress => TcAttachType::Ingress,
            Self::Egress => TcAttachType::Egress,
        }
    }

    /// `BPF_TCX_INGRESS`, `BPF_TCX_EGRESS` (include/uapi/linux/bpf.h).
    const fn tcx(self) -> u32 {
        match self {
            Self::Ingress => 46,
            Self::Egress => 47,
        }
    }

    /// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_*)` (include/uapi/linux/pkt_sched.h).
    const fn parent(self) -> u32 {
        match self {
            Self::Ingress => 0xffff_fff2,
            Self::Egress => 0xffff_fff3,
        }
    }
}

/// What programs are attached by on this kernel.
pub fn mechanism() -> &'static str {
    if host::kernel_at_least(6, 6) {
        "tcx"
    } else {
        "clsact"
    }
}

/// Where a program is to be.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Interface index, in the namespace that the thread is in.
    pub ifindex: u32,
    /// Which packets.
    pub way: Way,
    /// Number of the network namespace; 0 = the agent's own.
    pub netns: u16,
}

/// A program on a device. Goes when it is dropped.
pub struct Attachment {
    /// Interface index.
    pub ifindex: u32,
    way: Way,
    /// The kernel's id of the program.
    id: u32,
    link: Option<SchedClassifierLink>,
    /// Whose facts it asks or tells, and what it is called there.
    source: Source,
    fact: String,
}

impl Engine {
    /// Enters a program into the accounts before it is loaded.
    pub fn know(&mut self, spec: &Spec) {
        self.learn(spec.name, spec.account);
    }

    /// Says on which devices a program is.
    pub fn on_devices(&mut self, spec: &Spec, devices: &[String]) {
        self.verdicts.retain(|v| v.program != spec.name);
        self.enter(Verdict {
            probe: spec.probe.to_owned(),
            program: spec.name.to_owned(),
            // The kernel forbids only blanks and slashes in their names.
            hook: clean(&format!("{} {}", spec.hook.describe(), devices.join(" "))),
            state: State::Attached,
            reason: String::new(),
            remedy: String::new(),
            required: spec.required,
            verifier_log: String::new(),
        });
    }

    /// Makes the entry to a loaded program from another network namespace. A packet does not say which namespace its
    /// device is in, and an interface index is one of many in different ones: so each namespace has programs of its own,
    /// a few instructions that leave its number behind and jump.
    pub fn enter_by(
        &mut self,
        program: &'static str,
        netns: u16,
        jump: u32,
        jumps: &KernelMap,
    ) -> Result<()> {
        if self.entries.contains_key(&(netns, program)) {
            return Ok(());
        }
        let fact = format!("{program} of {netns}");
        if let Source::Recorded(past) = &self.source {
            let is_there = past.fact(&fact).unwrap_or(false);
            return is_there.then_some(()).context(fact);
        }
        let made = self.make_entry(program, netns, jump, jumps);
        self.source.tell(&fact, || made.is_ok());
        made
    }

    fn make_entry(&mut self, program: &'static str, netns: u16, jump: u32, jumps: &KernelMap) -> Result<()> {
        let what = format!("entry to {program}");
        let target = self.program(program).context("no such program")?;
        let target = target.fd().context(&what)?.as_fd().as_raw_fd();
        jumps
            .update(&jump.to_ne_bytes(), &target.to_ne_bytes())
            .context(&what)?;
        let scratch = self.map("TUNNEL_SCRATCH").and_then(map_data);
        let scratch = scratch.context("the object has no map TUNNEL_SCRATCH")?;
        let entry =
            sys::load_entry(scratch.fd().as_fd(), jumps.fd().context(&what)?, jump, netns).context(&what)?;
        let id = sys::program_id(entry.as_fd()).context(&what)?;
        let info = loaded_programs()
            .flatten()
            .find(|info| info.id() == id)
            .context(&what)?;
        let entry = SchedClassifier::from_program_info(info, program.into()).context(&what)?;
        self.entries.insert((netns, program), entry);
        Ok(())
    }

    /// Gives up the entries of all other namespaces.
    pub fn leave_entries(&mut self, there: &[u16]) {
        self.entries.retain(|(netns, _), _| there.contains(netns));
    }

    /// Puts a loaded program on a device, before all others.
    pub fn attach_to_device(
        &mut self,
        program: &'static str,
        device: &str,
        place: Place,
    ) -> Result<Attachment> {
        let what = format!("{program} on {device}");
        let fact = format!("{what} {} {}", place.ifindex, place.netns);
        if let Source::Recorded(past) = &self.source {
            let is_on = past.fact(&fact).unwrap_or(false);
            return is_on
                .then(|| Attachment {
                    ifindex: place.ifindex,
                    way: place.way,
                    id: 0,
                    link: None,
                    source: self.source.clone(),
                    fact: is_there(&fact),
                })
                .context(what);
        }
        let attached = self.put_on_device(program, device, place, &what, &fact);
        self.source.tell(&fact, || attached.is_ok());
        attached
    }

    fn put_on_device(
        &mut self,
        program: &'static str,
        device: &str,
        Place { ifindex, way, netns }: Place,
        what: &str,
        fact: &str,
    ) -> Result<Attachment> {
        let source = self.source.clone();
        let program: &mut SchedClassifier = if netns == 0 {
            let program = self.program_mut(program).context("no such program")?;
            program.try_into().context(what)?
        } else {
            self.entries.get_mut(&(netns, program)).context("no such entry")?
        };
        let id = program.info().context(what)?.id();
        let options = if mechanism() == "tcx" {
            TcAttachOptions::TcxOrder(LinkOrder::first())
        } else {
            // Refused where there is one already, which is as well.
            let _ = tc::qdisc_add_clsact(device);
            TcAttachOptions::Netlink(NlOptions {
                priority: first_priority(&filters(ifindex, way)?),
                ..NlOptions::default()
            })
        };
        let link = program
            .attach_with_options(device, way.aya(), options)
            .context(what)?;
        let link = program.take_link(link).context(what)?;
        Ok(Attachment {
            ifindex,
            way,
            id,
            link: Some(link),
            source,
            fact: is_there(fact),
        })
    }
}

impl Attachment {
    /// Whether it is still there. An error means that the device is not.
    pub fn is_there(&self) -> Result<bool> {
        if let Source::Recorded(past) = &self.source {
            return Ok(past.fact(&self.fact).unwrap_or(true));
        }
        let is_there = self.look();
        if let Ok(is_there) = &is_there {
            self.source.tell(&self.fact, || is_there);
        }
        is_there
    }

    fn look(&self) -> Result<bool> {
        if mechanism() == "tcx" {
            let ids = sys::query_tcx(self.ifindex, self.way.tcx()).context("tcx query")?;
            return Ok(ids.contains(&self.id));
        }
        Ok(filters(self.ifindex, self.way)?
            .iter()
            .any(|f| f.program == Some(self.id)))
    }

    /// Gives up what is not there any more: a clsact filter of the same place may be somebody else's by now.
    pub fn forget(mut self) {
        if mechanism() != "tcx"
            && let Some(link) = self.link.take()
        {
            std::mem::forget(link);
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // A clsact filter is removed by its place alone, which may be somebody else's by now.
        if mechanism() != "tcx" && self.link.is_some() && !matches!(self.is_there(), Ok(true)) {
            std::mem::forget(self.link.take());
        }
    }
}

/// The fact by which an attachment says that it is still there. That it was made is another: both may be told in one step.
fn is_there(fact: &str) -> String {
    format!("{fact} is there")
}

/// Removes clsact filters that an agent has left which was killed. Only to be called when no other agent runs.
pub fn remove_stale(device: &str, way: Way, program: &str) {
    if mechanism() != "tcx" {
        // An error means that there is none.
        let _ = tc::qdisc_detach_program(device, way.aya(), program);
    }
}

struct Filter {
    priority: u16,
    program: Option<u32>,
}

/// Filters of a device's clsact qdisc.
fn filters(ifindex: u32, way: Way) -> Result<Vec<Filter>> {
    let mut request = TcMessage::with_index(ifindex as i32);
    request.header.parent = TcHandle::from(way.parent());
    let answer = Rtnetlink::open()?.dump(RouteNetlinkMessage::GetTrafficFilter(request))?;
    let filter = |message: RouteNetlinkMessage| {
        let RouteNetlinkMessage::NewTrafficFilter(filter) = message else {
            return None;
        };
        let program = filter.attributes.iter().find_map(|a| match a {
            TcAttribute::Options(options) => options.iter().find_map(|o| match o {
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => Some(*id),
                _ => None,
            }),
            _ => None,
        });
        Some(Filter {
            priority: (filter.header.info >> 16) as u16,
            program,
        })
    };
    Ok(answer.into_iter().filter_map(filter).collect())
}

/// The priority before all others. 0 lets the kernel choose, which takes the one before the first, unless that is 1:
/// then we share it, or stand behind it if it is of another kind.
fn first_priority(filters: &[Filter]) -> u16 {
    // A dump has a line for each priority as well, which names no program.
    let at = |p: u16| filters.iter().filter(move |f| f.priority == p);
    let taken = |p: u16| at(p).next().is_some() && at(p).all(|f| f.program.is_none());
    match filters.iter().map(|f| f.priority).min() {
        Some(1) => (1..u16::MAX).find(|p| !taken(*p)).unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_priority() {
        let filter = |priority, program| Filter { priority, program };
        assert_eq!(first_priority(&[]), 0);
        assert_eq!(first_priority(&[filter(7, None)]), 0);
        assert_eq!(first_priority(&[filter(1, Some(9))]), 1);
        assert_eq!(first_priority(&[filter(1, None), filter(2, Some(9))]), 2);
        assert_eq!(first_priority(&[filter(1, None), filter(2, None)]), 3);
    }
}
