//! The hosts of a grant: where they are, and connecting to one of them for a client.
//!
//! Which address is tried when is decided in `session::run`; how one is connected to in
//! `backend::conn`; the login itself is the dialects'.

use std::time::Instant;

use crate::backend::Candidate;
use crate::backend::conn::{BackendConn, Dial, Origin};
use crate::backend::deadlines::Deadlines;
use crate::backend::error::{BackendError, BeforeCredentials};
use crate::backend::grant::{Grant, Target};
use crate::config::ProxySsl;
use crate::session::Session;

/// The addresses that a grant can go to, in the order in which they are to be tried; never empty.
pub(crate) fn candidates(session: &Session, grant: &Grant) -> Result<Vec<Candidate>, BackendError> {
    let deadline = session.login_deadline().at;
    let dns = &session.service.dns;
    let not_found =
        |error: String| BackendError::Connect(format!("no address of upstream: {error}"), None);
    let candidates: Vec<Candidate> = match &grant.target {
        Target::Backend(backend) => backend
            .candidates(session.service.conf.purpose(), &grant.user, dns, deadline)
            .map_err(not_found)?,
        Target::Address { host, port } => {
            let found = dns.lookup_host(host, *port, deadline);
            let found = found.map_err(|error| not_found(error.to_string()))?;
            session.log_debug(file!(), || {
                let left = found.valid_until.saturating_duration_since(Instant::now());
                let seconds = left.as_secs();
                format!("addresses of {host} are kept in the cache for {seconds} s")
            });
            let candidate = |address| Candidate {
                host: host.clone(),
                address,
                named_in: "the answer of the auth server".to_owned(),
            };
            found.addresses.into_iter().map(candidate).collect()
        }
    };
    session.log_debug(file!(), || {
        let addresses = candidates
            .iter()
            .map(|candidate| candidate.address.to_string());
        let addresses: Vec<_> = addresses.collect();
        format!(
            "addresses of upstream, in their order: {}",
            addresses.join(", ")
        )
    });
    Ok(candidates)
}

/// Connects to one address, within its share of the login's time.
pub(crate) fn dial<'a>(
    session: &'a Session,
    grant: &'a Grant,
    candidate: &'a Candidate,
    mut deadlines: Deadlines,
) -> Result<BackendConn<'a>, BeforeCredentials> {
    let Candidate { host, address, .. } = candidate;
    session.log_debug(file!(), || format!("trying host {host} at {address}"));
    session.set_upstream(Some(candidate.address.to_string()));
    if let Some(connect_timeout) = grant.connect_timeout {
        deadlines.limit_connect(connect_timeout);
    }
    if grant.ssl != ProxySsl::Off {
        match &grant.target {
            Target::Backend(backend) => backend.refresh_tls(),
            Target::Address { .. } => session.service.refresh_tls(),
        }
    }
    let dial = Dial {
        candidate,
        proxy_protocol: grant.proxy_protocol,
        origin: Origin::Client(session.client().socket().zip(session.local().socket())),
        ssl: grant.ssl,
        connector: &grant.connector,
        deadlines,
        watcher: Some(session),
        silent: Some(&session.runtime.silent),
        pass_on: session.service.conf.proxy_pass_error_message,
    };
    let began = Instant::now();
    let connected = dial.connect();
    if connected.is_ok() {
        session.service.metrics.connect_time.note(began.elapsed());
    }
    connected
}
