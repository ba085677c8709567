//! How many sessions there may be: `worker_processes` and `worker_connections` as `max_sessions`.
//!
//! A session of nginx's mail proxy takes two connections, the client's and the backend's.

use super::directives::Surroundings;
use super::tree::{Directive, Tree};
use super::write::Entry;
use crate::config::known_directive;

/// nginx's own `worker_connections`.
const CONNECTIONS: u64 = 512;

/// The most that `max_sessions` takes.
const MOST: u64 = 1_000_000;

/// `max_sessions`, if nginx had room for more than Postern has by default. Where it had less, whoever
/// moves in wants no session refused that could be served, so that a comment says so; `None` where nginx was
/// told nothing, or nothing that can be read.
pub(super) fn sessions(tree: &Tree, around: &Surroundings) -> Option<Entry> {
    let main = &tree.main.directives;
    let events = main
        .iter()
        .filter(|directive| directive.name == "events")
        .filter_map(|directive| directive.block.as_ref());
    let connections = events
        .flat_map(|block| value(&block.directives, "worker_connections"))
        .next();
    let processes = value(main, "worker_processes");
    if connections.is_none() && processes.is_none() {
        return None;
    }
    let connections = connections.map_or(Some(CONNECTIONS), |text| text.parse().ok())?;
    let (processes, meaning) = match processes {
        Some("auto") => (
            processors(),
            "auto, one for each processor of this machine: ",
        ),
        Some(text) => (text.parse().ok()?, ""),
        None => (1, ""),
    };
    let all = processes.saturating_mul(connections) / 2;
    let ours = known_directive("max_sessions")?.default_text();
    let mut entry = Entry::of_default("max_sessions", &all.min(MOST).to_string());
    entry.comments.push(format!(
        "# {} has room for {all} sessions: worker_processes {meaning}{processes} with worker_connections \
         {connections}, two for each session.",
        around.product()
    ));
    if ours.parse().is_ok_and(|ours: u64| all <= ours) {
        entry.comments.push(format!(
            "# Postern's max_sessions is {ours} by default, and stays so."
        ));
        entry.key = "";
    }
    Some(entry)
}

/// The first word behind a name.
fn value<'a>(directives: &'a [Directive], name: &str) -> Option<&'a str> {
    let directive = directives.iter().find(|directive| directive.name == name)?;
    directive.arguments.first().map(String::as_str)
}

fn processors() -> u64 {
    let number = std::thread::available_parallelism().map_or(1, usize::from);
    u64::try_from(number).unwrap_or(u64::MAX)
}
