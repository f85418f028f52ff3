//! What the API answers of the latest snapshot, and of the agent itself.

use crate::aggregate::Snapshot;
use crate::bpf::host;
use crate::collector::Shared;
use crate::config::Config;
use crate::confine::Confinement;
use crate::stacks::Stacks;
use crate::topology::Topology;
use crate::ui;
use serde_json::json;
use std::sync::{Arc, RwLock};
use tokio::sync::watch;

/// What `/api/v1/status` answers.
pub fn status(
    shared: Shared,
    config: &Config,
    confinement: Confinement,
) -> impl Fn() -> serde_json::Value + Send + Sync + 'static {
    let config = config.clone();
    move || {
        let verdicts = shared.verdicts.read().map(|v| v.clone()).unwrap_or_default();
        let error = shared.engine_error.read().map(|e| e.clone()).unwrap_or_default();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "kernel": host::kernel_release(),
            "host": config.host_name(),
            "pid": std::process::id(),
            "engine_error": error,
            "programs": verdicts,
            "privileges": confinement,
            "config": config,
        })
    }
}

/// Makes the views that a remote `top` asks for. Nothing is computed while nobody asks.
#[derive(Clone)]
pub struct Views {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    shared: Shared,
    builder: Arc<RwLock<(u64, ui::view::ViewBuilder, Option<ui::view::View>)>>,
    stacks: Option<ui::view::Watch>,
    judges: Option<ui::view::Judges>,
}

impl Views {
    /// From the channel that the collector fills.
    pub fn new(
        snapshots: watch::Receiver<Arc<Snapshot>>,
        shared: Shared,
        stacks: Option<Arc<Stacks>>,
        judges: Option<ui::view::Judges>,
    ) -> Self {
        let stacks = stacks.map(ui::view::Watch::new);
        Self {
            snapshots,
            shared,
            builder: Arc::new(RwLock::new((0, ui::view::ViewBuilder::new(), None))),
            stacks,
            judges,
        }
    }

    /// The view of the latest snapshot.
    pub fn latest(&self) -> Option<serde_json::Value> {
        self.with(|view, _| serde_json::to_value(view).ok())
    }

    /// The topology of the latest snapshot.
    pub fn topology(&self) -> Option<serde_json::Value> {
        let routes = self.shared.routes.read().map(|r| r.clone()).unwrap_or_default();
        self.with(|view, snapshot| {
            serde_json::to_value(Topology::new(view, snapshot, routes.into_iter().collect())).ok()
        })
    }

    fn with<T>(&self, make: impl FnOnce(&ui::view::View, &Snapshot) -> Option<T>) -> Option<T> {
        let snapshot = self.snapshots.borrow().clone();
        let mut guard = self.builder.write().ok()?;
        let (tick, builder, view) = &mut *guard;
        if *tick != snapshot.tick {
            if snapshot.tick > *tick + 10 {
                // Nobody has asked for a while: rates over the pause would be of no second in particular.
                *builder = ui::view::ViewBuilder::new();
            }
            builder.watch(self.stacks.clone());
            builder.judge(self.judges.clone());
            *tick = snapshot.tick;
            let verdicts = self.shared.verdicts.read().map(|v| v.clone()).unwrap_or_default();
            builder.set_verdicts(
                verdicts
                    .into_iter()
                    .map(|v| ui::view::Verdict {
                        program: v.program,
                        state: v.state.as_str().into(),
                        note: v.reason,
                    })
                    .collect(),
            );
            *view = Some(builder.push(&snapshot));
        }
        make(view.as_ref()?, &snapshot)
    }
}
