//! The ring of records: the kernel's, or a recording's.

use crate::bpf::Engine;
use crate::record::Source;
use crate::record::format::Reader;
use aya::maps::{MapData, RingBuf};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::os::fd::AsFd as _;
use std::time::Duration;

/// The ring.
#[derive(Default)]
pub struct Ring {
    kernel: Option<RingBuf<MapData>>,
    wakeup: Option<Epoll>,
    source: Source,
}

impl Ring {
    /// The engine's, or the recording's.
    pub fn new(engine: Option<&mut Engine>, source: Source) -> Self {
        let take = |e: &mut Engine| e.take_ring().inspect_err(|e| tracing::error!("{e}")).ok();
        let kernel = if source.past().is_some() {
            None
        } else {
            engine.and_then(take)
        };
        Self {
            wakeup: kernel.as_ref().and_then(wakeup),
            kernel,
            source,
        }
    }

    /// Calls `each` for what is in it, at most so many records, which a recording does not know; returns how many.
    pub fn take(&mut self, most: usize, mut each: impl FnMut(&[u8])) -> usize {
        let mut n = 0;
        if let Source::Recorded(past) = &self.source {
            let records = past.records();
            let mut reader = Reader(&records);
            while let Some(bytes) = reader.bytes() {
                each(bytes);
                n += 1;
            }
            past.read(records);
        }
        let Some(ring) = &mut self.kernel else { return n };
        while n < most {
            let Some(bytes) = ring.next() else { break };
            if let Source::Recording(tape) = &self.source {
                tape.record(&bytes);
            }
            each(&bytes);
            n += 1;
        }
        n
    }

    /// Waits for the ring's high-water mark, at most `timeout`.
    pub fn wait(&self, timeout: Duration) {
        match &self.wakeup {
            Some(epoll) => {
                let timeout = EpollTimeout::try_from(timeout).unwrap_or(EpollTimeout::ZERO);
                let _ = epoll.wait(&mut [EpollEvent::empty()], timeout);
            }
            None => std::thread::sleep(timeout),
        }
    }
}

/// Edge-triggered: the ring is readable as soon as it holds one record, and a level-triggered wait would spin through
/// records that come one by one. An edge is only what the programs send on purpose, at the high-water mark.
fn wakeup(ring: &RingBuf<MapData>) -> Option<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).ok()?;
    epoll
        .add(
            ring.as_fd(),
            EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0),
        )
        .ok()?;
    Some(epoll)
}
