//! Connecting to a backend: its addresses one after another, and the PROXY header.
//!
//! The login itself is the dialects' business.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::SockAddr;

use crate::auth::Grant;
use crate::config::{Keepalive, ProxyProtocol, ProxySsl};
use crate::dialect::BACKEND_LINE;
use crate::log::Severity;
use crate::net::conn::{Conn, Side};
use crate::net::proxy_protocol;
use crate::net::socket::Socket;
use crate::session::error::Cause;
use crate::session::{Session, Step};
use crate::tls::{TlsError, TlsErrorKind};

/// Connects to the backend of a grant, all within the login's time.
pub fn dial(session: &mut Session, grant: &Grant) -> Result<Conn, Cause> {
    session.step = Step::ConnectingToUpstream;
    session.begin_login();
    session.upstream = Some(name(&grant.host, grant.port));
    let addresses = resolve(session, grant)?;
    let socket = connect(session, &addresses)?;
    socket.keep_alive(Keepalive::Unset);
    let mut backend = Conn::new(Arc::new(socket), Side::Backend, BACKEND_LINE);
    send_proxy_header(session, &mut backend)?;
    if grant.ssl == ProxySsl::On {
        start_tls(session, &mut backend, grant)?;
    }
    session.step = Step::ReadingResponse;
    Ok(backend)
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
    let connector = session.service.connector.as_ref();
    let connector = connector.map_err(|reason| Cause::Internal(reason.clone()))?;
    let engine = connector.engine(&grant.host).map_err(Cause::BackendTls)?;
    Ok(backend.start_tls(engine, session.login_deadline())?)
}

fn name(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

fn resolve(session: &Session, grant: &Grant) -> Result<Vec<SocketAddr>, Cause> {
    let deadline = session.login_deadline();
    session
        .service
        .dns
        .lookup_host(&grant.host, grant.port, deadline.at)
        .map(|found| found.addresses)
        .map_err(|error| {
            let text = format!("host \"{}\" of upstream not found: {error}", grant.host);
            Cause::BackendConnect(text, None)
        })
}

/// The first address that answers. One that is silent leaves its successors an equal share of the
/// time.
fn connect(session: &mut Session, addresses: &[SocketAddr]) -> Result<Socket, Cause> {
    let deadline = session.login_deadline();
    let mut last = Cause::BackendConnect("upstream has no address".into(), None);
    for (at, &address) in addresses.iter().enumerate() {
        let others = u32::try_from(addresses.len() - at).unwrap_or(1);
        let Some(left) = deadline.remaining() else {
            return Err(Cause::BackendTimeout);
        };
        session.upstream = Some(address.to_string());
        match Socket::connect(&SockAddr::from(address), left / others) {
            Ok(socket) => return Ok(socket),
            Err(error) => {
                if others > 1 {
                    let text = "connect() failed, trying the next address";
                    session.log_failure(Severity::Warn, file!(), text, Some(&error));
                }
                last = failure(error);
            }
        }
    }
    Err(last)
}

fn failure(error: io::Error) -> Cause {
    match error.kind() {
        io::ErrorKind::TimedOut => Cause::BackendTimeout,
        _ => Cause::BackendConnect("connect() failed".into(), Some(error)),
    }
}

/// The header goes out in one write: some servers do not put it together from several.
fn send_proxy_header(session: &mut Session, backend: &mut Conn) -> Result<(), Cause> {
    let version = session.service.conf.proxy_protocol;
    if version == ProxyProtocol::Off {
        return Ok(());
    }
    session.step = Step::SendingProxyProtocol;
    let addresses = session.client.socket().zip(session.local.socket());
    let header = proxy_protocol::encode(version, addresses);
    Ok(backend.send(&header, session.login_deadline())?)
}
