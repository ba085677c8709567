//! The hosts of a grant: where they are, connecting to one of them, the PROXY header, TLS.
//!
//! Which address is tried when is decided in `session::run`; the login itself is the dialects'.

use std::io;
use std::sync::Arc;

use socket2::SockAddr;

use crate::backend::grant::{Grant, Target};
use crate::backend::{BACKEND_LINE, Candidate};
use crate::config::{Keepalive, ProxyProtocol, ProxySsl};
use crate::net::conn::{Conn, Side};
use crate::net::proxy_protocol;
use crate::net::socket::{Deadline, Socket};
use crate::session::error::Cause;
use crate::session::{Session, Step};
use crate::tls::{TlsError, TlsErrorKind};

/// The addresses that a grant can go to, in the order in which they are to be tried; never empty.
pub fn candidates(session: &Session, grant: &Grant) -> Result<Vec<Candidate>, Cause> {
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
pub fn dial(session: &mut Session, grant: &Grant, candidate: &Candidate) -> Result<Conn, Cause> {
    session.step = Step::ConnectingToUpstream;
    session.upstream = Some(candidate.address.to_string());
    session.upstream_host = candidate.host.clone();
    let mut limit = session.login_deadline();
    if let Some(connect_timeout) = grant.connect_timeout {
        let own = Deadline::after(connect_timeout, "connect_timeout");
        limit = if own.at < limit.at { own } else { limit };
    }
    let left = limit.remaining().ok_or(Cause::BackendTimeout)?;
    let socket = Socket::connect(&SockAddr::from(candidate.address), left).map_err(failure)?;
    socket.keep_alive(Keepalive::Unset);
    let mut backend = Conn::new(Arc::new(socket), Side::Backend, BACKEND_LINE);
    send_proxy_header(session, &mut backend, grant.proxy_protocol)?;
    if grant.ssl == ProxySsl::On {
        start_tls(session, &mut backend, grant)?;
    }
    session.step = Step::ReadingResponse;
    Ok(backend)
}

fn failure(error: io::Error) -> Cause {
    match error.kind() {
        io::ErrorKind::TimedOut => Cause::BackendTimeout,
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
    session.step = Step::SendingProxyProtocol;
    let addresses = session.client.socket().zip(session.local.socket());
    let header = proxy_protocol::encode(version, addresses);
    Ok(backend.send(&header, session.login_deadline())?)
}

/// Runs the TLS handshake with a backend, behind STARTTLS or at once. A byte that came before it is an
/// attempt to have something believed that was never encrypted.
pub fn start_tls(session: &mut Session, backend: &mut Conn, grant: &Grant) -> Result<(), Cause> {
    session.step = Step::SslHandshaking;
    if !backend.buffered().is_empty() {
        return Err(Cause::BackendTls(TlsError::new(
            TlsErrorKind::Protocol,
            "the backend sent something before the handshake, as an attacker in between would",
        )));
    }
    session.service.refresh_tls();
    let connector = grant.connector.as_ref();
    let connector = connector.map_err(|reason| Cause::Internal(reason.clone()))?;
    let engine = connector
        .engine(&session.upstream_host)
        .map_err(Cause::BackendTls)?;
    Ok(backend.start_tls(engine, session.login_deadline())?)
}
