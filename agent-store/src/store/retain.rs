//! What is too old or too much goes. Series that are kept for longer stay: a block that goes leaves one behind that has nothing
//! else, so that a window of a month needs no store of a month.

use super::Inner;
use super::block::Summary;
use super::block::read::Block;
use super::codec::Effort;
use super::rewrite::{self, Stop};
use super::settings::millis;
use super::stats::add;
use super::upkeep::Upkeep;
use crate::series::Millis;
use std::io::ErrorKind;
use std::sync::Arc;

impl Inner {
    /// Removes what is too old, and the oldest of what is too much.
    pub(super) fn retain(&self, upkeep: &mut Upkeep) {
        let view = self.view();
        let newest = self.newest(&view);
        let (_, keep) = self.keeps();
        let keep_lasting = millis(self.settings.keep_lasting).max(keep);
        upkeep
            .lasting
            .retain(|id, _| view.blocks.iter().any(|block| block.id == *id));
        for block in &view.blocks {
            let known = upkeep.lasting.entry(block.id);
            known.or_insert_with(|| self.has_only_lasting(block));
        }
        let is_lasting = |block: &Block| upkeep.lasting.get(&block.id) == Some(&true);
        let mut by_age = view.blocks.clone();
        by_age.sort_by_key(|block| block.summary.to);
        let (last, rest): (Vec<_>, Vec<_>) = by_age.into_iter().partition(|block| is_lasting(block));
        let most = self.place.limit(&self.settings);
        // They are the oldest of all: were they to go for the room of others, they would go first.
        let of_last = self.thin(&last, newest.saturating_sub(keep_lasting), most / 2, false);
        self.thin(&rest, newest.saturating_sub(keep), most - of_last, true);
    }

    /// Lets blocks go that end before a time, and of the others the first until they take no more than that; answers how much it is.
    fn thin(&self, by_age: &[Arc<Block>], before: Millis, most: u64, leaves_some: bool) -> u64 {
        let mut size: u64 = by_age.iter().map(|block| block.size).sum();
        for block in by_age {
            if block.summary.to < before || size > most {
                size -= block.size;
                self.let_go(block, leaves_some);
            }
        }
        size
    }

    fn lasts(&self, name: &str) -> bool {
        self.settings.lasting.iter().any(|lasting| lasting == name)
    }

    fn has_only_lasting(&self, block: &Block) -> bool {
        let mut only = !self.settings.lasting.is_empty();
        let read = only.then(|| block.words(Some(crate::labels::NAME), |name| only &= self.lasts(name)));
        only && read.is_some_and(|read| read.is_ok())
    }

    /// Removes a block, but for the series of it that are kept for longer.
    fn let_go(&self, block: &Arc<Block>, leaves_some: bool) {
        let left = if leaves_some {
            self.left_of(block)
        } else {
            Ok(None)
        };
        let left = match left {
            Ok(left) => left,
            Err(Stop::Unread(id, error)) => {
                self.counters.damage(id, &error);
                None
            }
            Err(Stop::TooMuch) => {
                let error = std::io::Error::other("it is too large to be kept");
                self.counters.failed("what is kept of an old block", &error);
                None
            }
            Err(Stop::Failed(error)) => {
                self.counters.failed("what is kept of an old block", &error);
                // A disk that is full needs the room. All else may pass until the next time.
                if !matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
                    return;
                }
                None
            }
        };
        self.replace(|view| {
            view.blocks.retain(|other| other.id != block.id);
            view.blocks.extend(left);
        });
        self.remove(&[block.id]);
    }

    /// A block of what is kept for longer, if there is any of it.
    fn left_of(&self, block: &Arc<Block>) -> Result<Option<Arc<Block>>, Stop> {
        let mut some = false;
        block
            .words(Some(crate::labels::NAME), |name| some |= self.lasts(name))
            .map_err(|error| Stop::Unread(block.id, error))?;
        if !some {
            return Ok(None);
        }
        let summary = Summary {
            step: block.summary.step,
            logs: block.summary.logs,
            replaces: vec![block.id],
            ..Summary::default()
        };
        let one = std::slice::from_ref(block);
        let main = rewrite::main_axis(one, None)?;
        let mut damaged = 0;
        let built = self.build(summary, main.clone(), Effort::Full, |writer| {
            let only = Some(&*self.settings.lasting);
            damaged = rewrite::merge(one, None, only, &main, self.settings.memory / 4, writer)?;
            Ok(())
        })?;
        add(&self.counters.damaged, damaged);
        Ok(Some(built))
    }
}
