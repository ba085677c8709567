//! POP3 towards the backend: greeting, USER and PASS.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::backend::grant::Grant;
use crate::config::{AuthMechanism, ProxySsl};
use crate::dialect::{no_starttls, read_backend_line, refused, send_to_backend};
use crate::net::conn::Conn;
use crate::net::line::{Bare, Line, line, without_end};
use crate::sasl::{Mechanism, oauth};
use crate::session::error::{Cause, RefusalKind};
use crate::session::{Session, Step};

/// Logs in; the client gets the backend's last `+OK` line.
pub(super) fn log_in(
    session: &mut Session,
    backend: &mut Conn,
    grant: &Grant,
) -> Result<Line, Cause> {
    let mut total = 0;
    read_ok(session, backend, &mut total, RefusalKind::Greeting)?;
    session.host_has_greeted();
    if grant.ssl == ProxySsl::StartTls {
        begin_tls(session, backend, grant, &mut total)?;
    }
    if let Some(mechanism) = mechanism(session, backend, grant, &mut total)? {
        return authenticate(session, backend, grant, mechanism, &mut total);
    }

    // `Grant::is_sayable` has made sure of both before the backend was dialled.
    let broken = || Cause::Internal("login or password would break the line".into());
    let login = Bare::new(&grant.login).ok_or_else(broken)?;
    session.set_step(Step::SendingUser);
    send_to_backend(session, backend, &line(&[b"USER ", login.bytes()]))?;
    read_ok(session, backend, &mut total, RefusalKind::Login)?;

    let password = Bare::new(grant.password()?).ok_or_else(broken)?;
    session.set_step(Step::SendingPassword);
    send_to_backend(session, backend, &line(&[b"PASS ", password.bytes()]))?;
    session.credentials_are_out();
    let answer = read_ok(session, backend, &mut total, RefusalKind::Login)?;
    Ok(Line::new(answer))
}

/// RFC 2595, section 4.
fn begin_tls(
    session: &mut Session,
    backend: &mut Conn,
    grant: &Grant,
    total: &mut usize,
) -> Result<(), Cause> {
    session.set_step(Step::InStarttls);
    let offered = ask_capabilities(session, backend, total)?;
    if !offered.iter().any(|line| line == "STLS") {
        return Err(no_starttls());
    }
    send_to_backend(session, backend, b"STLS\r\n")?;
    read_ok(session, backend, total, RefusalKind::Other)?;
    session.start_backend_tls(backend, grant)
}

/// RFC 2449: the lines behind CAPA, upper case; none where the backend does not know the command.
fn ask_capabilities(
    session: &mut Session,
    backend: &mut Conn,
    total: &mut usize,
) -> Result<Vec<String>, Cause> {
    send_to_backend(session, backend, b"CAPA\r\n")?;
    let answer = read_backend_line(session, backend, total)?;
    let mut lines = Vec::new();
    if !is_ok(&answer) {
        return Ok(lines);
    }
    loop {
        let line = read_backend_line(session, backend, total)?;
        match without_end(&line) {
            b"." => return Ok(lines),
            line => lines.push(String::from_utf8_lossy(line).to_ascii_uppercase()),
        }
    }
}

/// How to log in; `None` is USER and PASS. A token goes on as a token where the backend takes it.
fn mechanism(
    session: &mut Session,
    backend: &mut Conn,
    grant: &Grant,
    total: &mut usize,
) -> Result<Option<Mechanism>, Cause> {
    let fixed = match grant.mechanism {
        AuthMechanism::Plain => Some(Mechanism::Plain),
        AuthMechanism::Xoauth2 => Some(Mechanism::Xoauth2),
        AuthMechanism::Oauthbearer => Some(Mechanism::OauthBearer),
        // An authorization identity goes with SASL PLAIN alone (RFC 4616).
        AuthMechanism::Auto | AuthMechanism::Login | AuthMechanism::Off => {
            grant.authzid.is_some().then_some(Mechanism::Plain)
        }
    };
    if fixed.is_some() || !grant.asks_for_token_mechanisms() {
        return Ok(fixed);
    }
    let lines = ask_capabilities(session, backend, total)?;
    let offered = |mechanism: Mechanism| {
        let sasl = lines.iter().filter_map(|line| line.strip_prefix("SASL "));
        sasl.flat_map(str::split_ascii_whitespace)
            .any(|name| name == mechanism.name())
    };
    Ok(grant.token_mechanism(offered))
}

/// AUTH (RFC 5034), in two steps: lines are short in POP3.
fn authenticate(
    session: &mut Session,
    backend: &mut Conn,
    grant: &Grant,
    mechanism: Mechanism,
    total: &mut usize,
) -> Result<Line, Cause> {
    let message = grant.sasl_message(mechanism)?;
    session.set_step(Step::SendingUser);
    let command = line(&[b"AUTH ", mechanism.name().as_bytes()]);
    send_to_backend(session, backend, &command)?;
    let answer = read_backend_line(session, backend, total)?;
    if !answer.starts_with(b"+ ") && without_end(&answer) != b"+" {
        return Err(refused(session, answer, RefusalKind::Other, None));
    }
    session.set_step(Step::SendingPassword);
    let encoded = Line::new(STANDARD.encode(&*message).into_bytes());
    send_to_backend(session, backend, &line(&[&encoded]))?;
    session.credentials_are_out();
    let mut answer = read_backend_line(session, backend, total)?;
    if answer.starts_with(b"+ ") {
        // An OAuth mechanism explains its refusal first and wants an answer to that (RFC 7628).
        let dummy = line(&[oauth::dummy_answer(mechanism)]);
        send_to_backend(session, backend, &dummy)?;
        answer = read_backend_line(session, backend, total)?;
    }
    take_ok(session, answer, RefusalKind::Login).map(Line::new)
}

fn read_ok(
    session: &mut Session,
    backend: &mut Conn,
    total: &mut usize,
    kind: RefusalKind,
) -> Result<Vec<u8>, Cause> {
    let answer = read_backend_line(session, backend, total)?;
    take_ok(session, answer, kind)
}

/// An answer, if it is `+OK`. Some codes are about the server and not about the login (RFC 2449,
/// RFC 3206).
fn take_ok(session: &Session, answer: Vec<u8>, kind: RefusalKind) -> Result<Vec<u8>, Cause> {
    const FOR_NOW: [&[u8]; 4] = [b"[SYS/", b"[IN-USE]", b"[LOGIN-DELAY]", b"[SYS]"];
    if is_ok(&answer) {
        return Ok(answer);
    }
    let code = answer
        .strip_prefix(b"-ERR ")
        .unwrap_or_default()
        .to_ascii_uppercase();
    let for_now = FOR_NOW.iter().any(|for_now| code.starts_with(for_now));
    let kind = match kind {
        RefusalKind::Login if for_now => RefusalKind::LoginForNow,
        kind => kind,
    };
    Err(refused(session, answer, kind, None))
}

fn is_ok(answer: &[u8]) -> bool {
    answer.split(u8::is_ascii_whitespace).next() == Some(b"+OK")
}
