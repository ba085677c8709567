//! The hosts of a grant: where they are, connecting to one of them, the PROXY header, TLS.
//!
//! Which address is tried when is decided in `session::run`; the login itself is the dialects'.

use std::io;
use std::sync::Arc;

use socket2::SockAddr;

use crate::backend::grant::{Grant, Target};
use crate::backend::{BACKEND_LINE, Candidate};
use crate::config::{Keepalive, ProxyProtocol, ProxySsl};
use crate::net::conn::Conn;
use crate::net::proxy_protocol;
use crate::net::socket::{Socket, is_exhaustion};
use crate::session::error::Cause;
use crate::session::{Session, Step};

/// The addresses that a grant can go to, in the order in which they are to be tried; never empty.
pub(crate) fn candidates(session: &Session, grant: &Grant) -> Result<Vec<Candidate>, Cause> {
    let deadline = session.login_deadline().at;
    let dns = &session.service.dns;
    let not_found =
        |error: String| Cause::BackendConnect(format!("no address of upstream: {error}"), None);
    match &grant.target {
        Target::Backend(backend) => backend
            .candidates(session.service.conf.protocol, dns, deadline)
            .map_err(not_found),
        Target::Address { host, port } => {
            let found = dns.lookup_host(host, *port, deadline);
            let found = found.map_err(|error| not_found(error.to_string()))?;
            let candidate = |address| Candidate {
                host: host.clone(),
                address,
            };
            Ok(found.addresses.into_iter().map(candidate).collect())
        }
    }
}

/// Connects to one address, within the login's time.
pub(crate) fn dial(
    session: &mut Session,
    grant: &Grant,
    candidate: &Candidate,
) -> Result<Conn, Cause> {
    session.set_step(Step::ConnectingToUpstream);
    session.set_upstream(Some(candidate.address.to_string()));
    session.upstream_host = candidate.host.clone();
    if let Some(connect_timeout) = grant.connect_timeout {
        session.limit_connect(connect_timeout);
    }
    let left = session
        .login_deadline()
        .remaining()
        .ok_or(Cause::BackendTimeout)?;
    let socket = Socket::connect(&SockAddr::from(candidate.address), left).map_err(failure)?;
    socket.keep_alive(Keepalive::Unset);
    let mut backend = Conn::new(Arc::new(socket), BACKEND_LINE);
    send_proxy_header(session, &mut backend, grant.proxy_protocol)?;
    if grant.ssl == ProxySsl::On {
        session.start_backend_tls(&mut backend, grant)?;
    }
    session.set_step(Step::ReadingResponse);
    Ok(backend)
}

fn failure(error: io::Error) -> Cause {
    match error.kind() {
        io::ErrorKind::TimedOut => Cause::BackendTimeout,
        // Ours, not the backend's.
        _ if is_exhaustion(&error) => {
            Cause::Internal(format!("no connection to upstream: {error}"))
        }
        _ => Cause::BackendConnect("connect() failed".into(), Some(error)),
    }
}

/// The header goes out in one write: some servers do not put it together from several.
fn send_proxy_header(
    session: &mut Session,
    backend: &mut Conn,
    version: ProxyProtocol,
) -> Result<(), Cause> {
    if version == ProxyProtocol::Off {
        return Ok(());
    }
    session.set_step(Step::SendingProxyProtocol);
    let addresses = session.client().socket().zip(session.local().socket());
    let header = proxy_protocol::encode(version, addresses);
    Ok(backend.send(&header, session.login_deadline())?)
}
