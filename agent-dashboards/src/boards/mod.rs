//! The dashboards, a file each.

mod agent;
mod node;
mod overview;
mod profiles;
mod region;
mod services;
mod tunnels;

use crate::maker::Maker;
use crate::panel::Board;

/// All of them, the one to begin with first.
pub fn all(maker: &mut Maker) -> Vec<Board> {
    vec![
        overview::board(maker),
        region::board(maker),
        services::board(maker),
        tunnels::board(maker),
        node::board(maker),
        profiles::board(maker),
        agent::board(maker),
    ]
}
