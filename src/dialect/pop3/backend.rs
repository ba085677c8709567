//! POP3 towards the backend: greeting, USER and PASS.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::auth::Grant;
use crate::backend::dial::start_tls;
use crate::config::ProxySsl;
use crate::dialect::{no_starttls, read_backend_line, refused, send_to_backend};
use crate::net::conn::Conn;
use crate::net::line::{Bare, Line, line, without_end};
use crate::session::error::Cause;
use crate::session::{Session, Step};

/// Logs in; the client gets the backend's last `+OK` line.
pub(super) fn log_in(
    session: &mut Session,
    backend: &mut Conn,
    grant: &Grant,
) -> Result<Line, Cause> {
    let mut total = 0;
    read_ok(session, backend, &mut total)?;
    if grant.ssl == ProxySsl::StartTls {
        begin_tls(session, backend, grant, &mut total)?;
    }
    if grant.authzid.is_some() {
        return authenticate_plain(session, backend, grant, &mut total);
    }

    // `Grant::check` has made sure of both before the backend was dialled.
    let broken = || Cause::Internal("login or password would break the line".into());
    let login = Bare::new(&grant.login).ok_or_else(broken)?;
    session.step = Step::SendingUser;
    send_to_backend(session, backend, &line(&[b"USER ", login.bytes()]))?;
    read_ok(session, backend, &mut total)?;

    let password = Bare::new(grant.password(session)?).ok_or_else(broken)?;
    session.step = Step::SendingPassword;
    send_to_backend(session, backend, &line(&[b"PASS ", password.bytes()]))?;
    let answer = read_ok(session, backend, &mut total)?;
    Ok(Line::new(answer))
}

/// RFC 2595, section 4.
fn begin_tls(
    session: &mut Session,
    backend: &mut Conn,
    grant: &Grant,
    total: &mut usize,
) -> Result<(), Cause> {
    session.step = Step::InStarttls;
    send_to_backend(session, backend, b"CAPA\r\n")?;
    read_ok(session, backend, total)?;
    let mut offered = false;
    loop {
        let line = read_backend_line(session, backend, total)?;
        match without_end(&line) {
            b"." => break,
            capability => offered |= capability.eq_ignore_ascii_case(b"STLS"),
        }
    }
    if !offered {
        return Err(no_starttls());
    }
    send_to_backend(session, backend, b"STLS\r\n")?;
    read_ok(session, backend, total)?;
    start_tls(session, backend, grant)
}

/// An authorization identity goes with SASL PLAIN alone (RFC 4616, RFC 5034).
fn authenticate_plain(
    session: &mut Session,
    backend: &mut Conn,
    grant: &Grant,
    total: &mut usize,
) -> Result<Line, Cause> {
    let message = grant.plain_message(session)?;
    session.step = Step::SendingUser;
    send_to_backend(session, backend, b"AUTH PLAIN\r\n")?;
    let answer = read_backend_line(session, backend, total)?;
    if !answer.starts_with(b"+ ") && without_end(&answer) != b"+" {
        return Err(refused(session, answer, None));
    }
    session.step = Step::SendingPassword;
    let encoded = Line::new(STANDARD.encode(&*message).into_bytes());
    send_to_backend(session, backend, &line(&[&encoded]))?;
    Ok(Line::new(read_ok(session, backend, total)?))
}

fn read_ok(session: &mut Session, backend: &mut Conn, total: &mut usize) -> Result<Vec<u8>, Cause> {
    let answer = read_backend_line(session, backend, total)?;
    let status = answer.split(u8::is_ascii_whitespace).next();
    if status == Some(b"+OK") {
        return Ok(answer);
    }
    Err(refused(session, answer, None))
}
