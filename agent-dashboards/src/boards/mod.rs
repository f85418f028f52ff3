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

/// Name of the dashboard of stacks.
pub const PROFILES: &str = "geophone-profiles";
/// That of the ways between regions.
pub const REGION: &str = "geophone-region";
/// That of subjects and their peers.
pub const SERVICES: &str = "geophone-services";
/// That of nodes.
pub const NODE: &str = "geophone-node";
/// That of the agents.
pub const AGENT: &str = "geophone-agent";
/// That of tunnels.
pub const TUNNELS: &str = "geophone-tunnels";

/// Title over panels that nobody has thought about yet.
const FURTHER: &str = "Further";

/// All of them, the one to begin with first. What none of them shows is at the end of the last.
pub fn all(maker: &mut Maker) -> Vec<Board> {
    let mut boards = vec![
        overview::board(maker),
        region::board(maker),
        services::board(maker),
        tunnels::board(maker),
        node::board(maker),
        profiles::board(maker),
    ];
    let mut last = agent::board(maker);
    let further = maker.further();
    if !further.is_empty() {
        last.panels.push(maker.row(FURTHER));
        last.panels.extend(further);
    }
    boards.push(last);
    boards
}
