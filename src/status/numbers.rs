//! `/metrics`: what was counted, and what can be looked at, as Prometheus reads it.
//!
//! Labels are what the configuration and the program name, so that nobody on the network can make series:
//! no login, no client address, and of backends only those that are configured.

use std::sync::Arc;

use super::answer::Answer;
use super::{Shown, Site};
use crate::metrics::exposition::{Exposition, Kind, MEDIA_TYPE};
use crate::metrics::{Histogram, Outcome, Reasons, ServerMetrics, read};
use crate::session::error::Cause;
use crate::session::snapshot::State;
use crate::session::tally::{Tally, tally};
use crate::system::usage::Usage;

use Kind::{Counter, Gauge};

/// The answer.
pub(super) fn metrics(site: &Site, shown: &Shown) -> Answer {
    let services = shown.services.iter();
    let servers = services.map(|service| Arc::clone(&service.metrics));
    let servers: Vec<Arc<ServerMetrics>> = servers.collect();
    let tallies = tally(&site.runtime.live, &servers);
    let mut out = Exposition::default();
    of_sessions(&mut out, &tallies);
    of_refusals(&mut out, &tallies);
    of_traffic(&mut out, &tallies);
    of_logins(&mut out, &tallies);
    of_times(&mut out, &tallies);
    of_backends(&mut out, shown);
    of_certificates(&mut out, shown);
    of_workers(&mut out, site, shown);
    of_process(&mut out, site, shown);
    Answer::data(MEDIA_TYPE, out.finish())
}

/// The labels of a server, and further ones.
fn labels<'a, const N: usize>(
    metrics: &'a ServerMetrics,
    more: [(&'static str, &'a str); N],
) -> Vec<(&'static str, &'a str)> {
    let own = [
        ("protocol", metrics.protocol.name()),
        ("server", metrics.name.as_str()),
    ];
    own.into_iter().chain(more).collect()
}

/// A metric of which each server has its own lines.
fn each(
    out: &mut Exposition,
    tallies: &[Tally],
    (name, kind, help): (&'static str, Kind, &'static str),
    write: impl Fn(&mut Exposition, &Tally),
) {
    out.begin(name, kind, help);
    for tally in tallies {
        write(out, tally);
    }
}

fn of_sessions(out: &mut Exposition, tallies: &[Tally]) {
    let help = "Sessions by how far they are.";
    each(
        out,
        tallies,
        ("postern_sessions", Gauge, help),
        |out, tally| {
            for (state, count) in State::ALL.iter().zip(tally.states) {
                out.count(&labels(&tally.metrics, [("state", state.name())]), count);
            }
        },
    );
    let name = "postern_sessions_sleeping";
    let help = "Sessions that wait without a thread, before their login or behind it.";
    each(out, tallies, (name, Gauge, help), |out, tally| {
        out.count(&labels(&tally.metrics, []), tally.sleeping);
    });
    let name = "postern_sessions_accepted_total";
    let help = "Sessions that were let in.";
    each(out, tallies, (name, Counter, help), |out, tally| {
        out.count(&labels(&tally.metrics, []), read(&tally.metrics.accepted));
    });
    let name = "postern_sessions_ended_total";
    let help = "Sessions that ended, by the reason in their closing line.";
    each(out, tallies, (name, Counter, help), |out, tally| {
        by_reason(out, tally, &tally.metrics.ended);
    });
}

fn of_refusals(out: &mut Exposition, tallies: &[Tally]) {
    let name = "postern_evictions_total";
    let help = "Sessions before their login that made room for others.";
    each(out, tallies, (name, Counter, help), |out, tally| {
        let evicted = ended_with(tally, Cause::MadeRoom.reason());
        out.count(&labels(&tally.metrics, []), evicted);
    });
    let name = "postern_connections_refused_total";
    let help = "Connections that were turned away, by the limit that was reached; denied and banned are those of clients that are not let in.";
    each(out, tallies, (name, Counter, help), |out, tally| {
        by_reason(out, tally, &tally.metrics.turned_away);
    });
    let name = "postern_logins_delayed_total";
    let help = "Failed logins that were answered late, as too many of their address had failed.";
    each(out, tallies, (name, Counter, help), |out, tally| {
        out.count(&labels(&tally.metrics, []), read(&tally.metrics.delayed));
    });
    let name = "postern_user_limit_total";
    let help = "Sessions that ended at their login because their user had too many.";
    each(out, tallies, (name, Counter, help), |out, tally| {
        let limit = ended_with(tally, Cause::UserLimit("").reason());
        out.count(&labels(&tally.metrics, []), limit);
    });
}

/// Sessions that ended with this reason.
fn ended_with(tally: &Tally, reason: &str) -> u64 {
    let mut ended = tally.metrics.ended.counts();
    let found = ended.find(|(own, _)| *own == reason);
    found.map_or(0, |(_, count)| count)
}

fn of_traffic(out: &mut Exposition, tallies: &[Tally]) {
    let name = "postern_relayed_bytes_total";
    let help = "Bytes in the relays of sessions that are logged in.";
    each(out, tallies, (name, Counter, help), |out, tally| {
        for (direction, count) in ["from_client", "to_client"].into_iter().zip(tally.bytes) {
            out.count(&labels(&tally.metrics, [("direction", direction)]), count);
        }
    });
    let name = "postern_tls_handshakes_total";
    let help = "TLS handshakes with clients, by the version that was agreed on.";
    each(out, tallies, (name, Counter, help), |out, tally| {
        for (version, count) in tally.metrics.tls() {
            out.count(&labels(&tally.metrics, [("version", version)]), count);
        }
    });
}

fn by_reason(out: &mut Exposition, tally: &Tally, reasons: &Reasons) {
    for (reason, count) in reasons.counts() {
        let reason = word(reason);
        out.count(&labels(&tally.metrics, [("reason", &reason)]), count);
    }
}

/// The reason of a log line as labels are written.
fn word(reason: &str) -> String {
    reason.to_ascii_lowercase().replace([' ', '-'], "_")
}

fn of_logins(out: &mut Exposition, tallies: &[Tally]) {
    let name = "postern_logins_total";
    let help = "Logins by how they were tried and what became of them.";
    each(out, tallies, (name, Counter, help), |out, tally| {
        for (mechanism, counts) in tally.metrics.logins() {
            for (outcome, count) in Outcome::ALL.iter().zip(counts) {
                let more = [("mechanism", mechanism), ("outcome", outcome.label())];
                out.count(&labels(&tally.metrics, more), count);
            }
        }
    });
}

fn of_times(out: &mut Exposition, tallies: &[Tally]) {
    type Times = fn(&ServerMetrics) -> &Histogram;
    let all: [(_, _, Times); 5] = [
        (
            "postern_login_seconds",
            "From accept to the end of a successful login.",
            |metrics| &metrics.login_time,
        ),
        (
            "postern_auth_seconds",
            "What the authentication method took for a successful login.",
            |metrics| &metrics.auth_time,
        ),
        (
            "postern_backend_connect_seconds",
            "What connecting to a backend took, with TLS where it comes first.",
            |metrics| &metrics.connect_time,
        ),
        (
            "postern_backend_login_seconds",
            "From the connect to a backend to the end of the login there.",
            |metrics| &metrics.backend_time,
        ),
        (
            "postern_session_seconds",
            "From accept to close.",
            |metrics| &metrics.session_time,
        ),
    ];
    for (name, help, times) in all {
        each(out, tallies, (name, Kind::Histogram, help), |out, tally| {
            out.histogram(&labels(&tally.metrics, []), times(&tally.metrics));
        });
    }
}

fn of_backends(out: &mut Exposition, shown: &Shown) {
    out.begin(
        "postern_backend_up",
        Gauge,
        "0 where a host did not serve when it was last tried, or its name has no address.",
    );
    for host in shown.hosts() {
        let labels = [
            ("backend", host.backend.as_str()),
            ("protocol", host.protocol.name()),
            ("host", host.host.as_str()),
        ];
        out.count(&labels, u64::from(!host.is_down));
    }
}

fn of_certificates(out: &mut Exposition, shown: &Shown) {
    out.begin(
        "postern_certificate_expiry_timestamp_seconds",
        Gauge,
        "When a certificate that clients are shown expires.",
    );
    for (service, certificate) in shown.certificates() {
        let file = certificate.file.display().to_string();
        let labels = labels(&service.metrics, [("certificate", &file)]);
        out.number(&labels, certificate.not_after as f64);
    }
}

fn of_workers(out: &mut Exposition, site: &Site, shown: &Shown) {
    let admission = &site.runtime.admission;
    let (busy, workers) = admission.workers();
    let limits = &shown.process;
    for (name, help, value) in [
        (
            "postern_sessions_limit",
            "Sessions that there may be (max_sessions).",
            limits.max_sessions,
        ),
        (
            "postern_workers_busy",
            "Workers that carry a session at this moment.",
            busy,
        ),
        (
            "postern_workers",
            "Workers that there are at this moment.",
            workers,
        ),
        (
            "postern_workers_limit",
            "Workers that there may be (workers).",
            limits.workers,
        ),
        (
            "postern_sessions_queued",
            "Sessions that have something to do and wait for a worker.",
            admission.queued(),
        ),
    ] {
        gauge(out, name, help, value as u64);
    }
}

fn of_process(out: &mut Exposition, site: &Site, shown: &Shown) {
    let usage = Usage::now();
    for (name, help, value) in [
        (
            "postern_config_last_reload_successful",
            "0 where the last attempt to read the configuration anew failed.",
            Some(u64::from(!shown.reload_failed)),
        ),
        (
            "postern_config_last_reload_success_timestamp_seconds",
            "When the configuration in use was read.",
            u64::try_from(shown.since.as_second()).ok(),
        ),
        (
            "postern_limits_store_up",
            "Whether the store that nodes share (limits_store) is in use.",
            (site.runtime.shared.state()).map(|(_, in_use)| u64::from(in_use)),
        ),
        ("postern_threads", "Threads of the process.", usage.threads),
        (
            "process_resident_memory_bytes",
            "Memory that the process occupies.",
            usage.resident,
        ),
        (
            "process_open_fds",
            "Descriptors that the process has open.",
            usage.descriptors,
        ),
        (
            "process_start_time_seconds",
            "When the process began.",
            u64::try_from(site.began.as_second()).ok(),
        ),
    ] {
        if let Some(value) = value {
            gauge(out, name, help, value);
        }
    }
    let help = "Always 1; the version is its label.";
    out.begin("postern_build_info", Gauge, help);
    out.count(&[("version", env!("CARGO_PKG_VERSION"))], 1);
}

fn gauge(out: &mut Exposition, name: &'static str, help: &'static str, value: u64) {
    out.begin(name, Gauge, help);
    out.count(&[], value);
}
