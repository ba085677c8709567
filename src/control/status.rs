//! How the process is, for `status`: what it does, and what an operator should look at.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::front::Fronts;
use crate::log::{self, Severity};
use crate::session::Runtime;
use crate::session::snapshot::{Filter, State};

/// Mistakes of a refused reload that are kept.
const MISTAKES: usize = 100;

/// What became of the last reload.
#[derive(Debug)]
pub(crate) struct LastReload {
    at: Instant,
    mistakes: Vec<String>,
}

impl LastReload {
    /// One that was refused because of these, or came about.
    pub(crate) fn now(mistakes: &[String]) -> Self {
        Self {
            at: Instant::now(),
            mistakes: mistakes.iter().take(MISTAKES).cloned().collect(),
        }
    }

    /// Whether it changed nothing.
    pub(crate) fn is_refused(&self) -> bool {
        !self.mistakes.is_empty()
    }
}

/// What the main thread knows of the process.
pub(crate) struct Process<'a> {
    /// Sessions.
    pub runtime: &'a Runtime,
    /// Listeners, and by them servers and backends.
    pub fronts: &'a Fronts,
    /// `max_sessions`
    pub max_sessions: usize,
    /// When it began.
    pub began: Instant,
    /// The last reload, if there was one.
    pub last_reload: Option<&'a LastReload>,
    /// Whether it waits for its sessions to end.
    pub is_draining: bool,
}

/// The answer to `status`.
pub(crate) fn answer(process: &Process<'_>) -> Value {
    let mut problems = Vec::new();
    let listeners = process.fronts.listening().into_iter();
    let listeners = listeners.map(|it| json!({ "server": it.server, "address": it.address }));
    let status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "uptime": process.began.elapsed().as_secs(),
        "draining": process.is_draining,
        "log_level": log::level().map_or("configured", Severity::name),
        "listeners": listeners.collect::<Vec<Value>>(),
        "sessions": sessions(process, &mut problems),
        "backends": backends(process, &mut problems),
        "last_reload": last_reload(process, &mut problems),
        "limits_store": limits_store(process, &mut problems),
    });
    let mut status = status;
    status["problems"] = problems.into();
    json!({ "ok": true, "status": status })
}

fn sessions(process: &Process<'_>, problems: &mut Vec<String>) -> Value {
    let mut of_states: BTreeMap<&str, u64> = State::ALL.map(|state| (state.name(), 0)).into();
    let mut of_protocols: BTreeMap<&str, u64> = BTreeMap::new();
    for session in process.runtime.live.snapshots(&Filter::default()) {
        *of_states.entry(session.state.name()).or_default() += 1;
        *of_protocols.entry(session.protocol).or_default() += 1;
    }
    let all = process.runtime.admission.sessions();
    if all >= process.max_sessions {
        problems.push(format!(
            "`max_sessions = {}` is reached",
            process.max_sessions
        ));
    }
    let crowded = process.runtime.admission.crowded_addresses();
    if crowded > 0 {
        problems.push(format!(
            "`max_prelogin_per_ip` is exceeded by {crowded} addresses"
        ));
    }
    json!({
        "all": all,
        "most": process.max_sessions,
        "by_state": of_states,
        "by_protocol": of_protocols,
    })
}

fn backends(process: &Process<'_>, problems: &mut Vec<String>) -> Value {
    let services = process.fronts.services();
    // All servers share them.
    let backends = services.first().map(|service| service.router.backends());
    let mut shown = Vec::new();
    for backend in backends.into_iter().flatten() {
        let name = &backend.conf.name;
        let down: Vec<String> = backend.down().iter().map(ToString::to_string).collect();
        let text = |address| format!("backend \"{name}\": {address} is down");
        problems.extend(down.iter().map(text));
        shown.push(json!({ "name": name, "down": down }));
    }
    shown.into()
}

fn last_reload(process: &Process<'_>, problems: &mut Vec<String>) -> Value {
    let Some(reload) = process.last_reload else {
        return Value::Null;
    };
    if reload.is_refused() {
        problems.push("the last reload was refused; the configuration before it is in use".into());
    }
    json!({
        "ago": reload.at.elapsed().as_secs(),
        "ok": !reload.is_refused(),
        "mistakes": reload.mistakes,
    })
}

fn limits_store(process: &Process<'_>, problems: &mut Vec<String>) -> Value {
    let Some((name, in_use)) = process.runtime.shared.state() else {
        return Value::Null;
    };
    if !in_use {
        problems.push(format!(
            "limits_store {name} is gone; this node counts alone"
        ));
    }
    json!({ "name": name, "in_use": in_use })
}

/// The answer to `reload`.
pub(crate) fn of_reload(done: &Result<Vec<String>, Vec<String>>) -> Value {
    match done {
        Ok(warnings) => json!({ "ok": true, "warnings": warnings }),
        Err(mistakes) => json!({
            "error": "the new configuration has mistakes; the old one stays in use",
            "mistakes": mistakes,
        }),
    }
}

/// The answer to `stop` and `drain`; `most` is how long the end may take.
pub(crate) fn of_end(most: Duration) -> Value {
    json!({ "ok": true, "pid": std::process::id(), "most": most.as_secs() })
}
