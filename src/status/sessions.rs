//! `/sessions`: the sessions as a program reads them; which of them a search means; and the end of one.

use serde_json::{Value, json};

use super::Site;
use super::answer::Answer;
use super::request::Request;
use crate::session::Runtime;
use crate::session::live::Ending;
use crate::session::snapshot::{Filter, Snapshot};

/// Most sessions of one answer: whoever has more searches.
const MOST: usize = 1000;

/// The sessions that a search finds.
pub(super) struct Found {
    /// The first of them, the oldest first.
    pub sessions: Vec<Snapshot>,
    /// How many there are.
    pub all: usize,
}

/// Those in whose login, addresses, server, protocol, state or number the text stands, in any case.
pub(super) fn search(runtime: &Runtime, text: &str, most: usize) -> Found {
    let text = text.trim().to_lowercase();
    let mut found = Found {
        sessions: Vec::new(),
        all: 0,
    };
    for session in runtime.live.snapshots(&Filter::default()) {
        if text.is_empty() || has(&session, &text) {
            found.all += 1;
            if found.sessions.len() < most {
                found.sessions.push(session);
            }
        }
    }
    found
}

fn has(session: &Snapshot, text: &str) -> bool {
    let with = |field: &str| field.to_lowercase().contains(text);
    let with_some = |field: &Option<String>| field.as_deref().is_some_and(with);
    with_some(&session.user)
        || with_some(&session.backend)
        || with(&session.client.to_string())
        || with(&session.server)
        || with(session.protocol)
        || with(session.state.name())
        || session.number.to_string() == text
}

/// The answer for programs.
pub(super) fn list(site: &Site, request: &Request) -> Answer {
    let text = request.query("search").unwrap_or_default();
    let found = search(&site.runtime, &text, MOST);
    let sessions: Vec<Value> = found.sessions.iter().map(in_json).collect();
    let body = json!({
        "sessions": sessions,
        "found": found.all,
        "shown": found.sessions.len(),
    });
    Answer::data("application/json", format!("{body}\n"))
}

fn in_json(session: &Snapshot) -> Value {
    json!({
        "session": session.number,
        "protocol": session.protocol,
        "server": session.server,
        "client": session.client.to_string(),
        "user": session.user,
        "state": session.state.name(),
        "backend": session.backend,
        "tls": session.tls,
        "backend_tls": session.backend_tls,
        "age_seconds": session.age.as_secs_f64(),
        "idle_seconds": session.idle.as_secs_f64(),
        "bytes_from_client": session.bytes_up,
        "bytes_to_client": session.bytes_down,
    })
}

/// Ends a session, as `postern kick` does: in good order, and after a moment in any case. Whether there is one
/// of this number.
pub(super) fn end(runtime: &Runtime, number: u64) -> bool {
    let found = runtime.live.find(number);
    runtime.end_all(found.as_slice(), Ending::Kicked);
    found.is_some()
}
