//! POP3 towards the backend: greeting, USER and PASS.

use crate::auth::Grant;
use crate::dialect::{read_backend_line, refused, send_to_backend};
use crate::net::conn::Conn;
use crate::net::line::{Bare, Line, line};
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

fn read_ok(session: &mut Session, backend: &mut Conn, total: &mut usize) -> Result<Vec<u8>, Cause> {
    let answer = read_backend_line(session, backend, total)?;
    let status = answer.split(u8::is_ascii_whitespace).next();
    if status == Some(b"+OK") {
        return Ok(answer);
    }
    Err(refused(session, answer, None))
}
