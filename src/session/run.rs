//! THE script: a session from its first byte to the relay, one call a step.
//!
//! Runs on a worker, blocking. The helpers stand below in the order in which they are used. What the
//! protocols say is in `dialect`; what is asked of whom in `auth` and `backend`.

use crate::admission::Arrival;
use crate::auth::passthrough::ATTEMPTS;
use crate::auth::{LoginRefusal, Request, Verdict, Warning};
use crate::backend::Candidate;
use crate::backend::grant::{Grant, Target};
use crate::config::AuthKind;
use crate::dialect::{self, Dialect};
use crate::log::{Severity, escape};
use crate::net::conn::Conn;
use crate::net::line::Line;
use crate::net::proxy_protocol::{self, Header, Parsed};
use crate::net::resolve::HostName;
use crate::net::socket::{Deadline, Seen, WaitFor};
use crate::protocol::Protocol;
use crate::sasl::Credentials;
use crate::session::dial::{candidates, dial};
use crate::session::error::{Cause, RefusalKind, SessionError};
use crate::session::relay::Relay;
use crate::session::{Session, Step};

use std::time::Duration;

/// Longest sequence of WAIT answers about one login.
const WAITS: u32 = 1000;

/// Longest time a last line may take to be written.
const LAST_LINE: Duration = Duration::from_millis(500);

/// Carries one connection as far as its relay, and hands it over.
pub fn serve(arrival: Arrival) {
    let proxy_protocol = arrival.proxy_protocol;
    let implicit_tls = arrival.implicit_tls;
    let mut session = Session::from(arrival);
    let mut client = session.client_conn();
    let mut dialect = dialect::begin(session.service.conf.protocol);
    session.log_event(file!(), "client connected");

    let opening = Opening {
        proxy_protocol,
        implicit_tls,
    };
    match run(&mut session, &mut client, dialect.as_mut(), opening) {
        Ok(backend) => {
            session.log_event(file!(), "client logged in");
            let threads = session.service.threads.clone();
            Relay::between(session, client, backend).start(&threads);
        }
        Err(cause) => end(session, client, dialect.as_ref(), cause),
    }
}

/// What the listener prescribes for a session's beginning.
#[derive(Debug, Clone, Copy)]
struct Opening {
    proxy_protocol: bool,
    implicit_tls: bool,
}

/// The session up to the end of its backend login.
fn run(
    session: &mut Session,
    client: &mut Conn,
    dialect: &mut dyn Dialect,
    opening: Opening,
) -> Result<Conn, Cause> {
    open_client(session, client, dialect, opening)?;
    loop {
        let (credentials, grant) = log_in(session, client, dialect)?;
        match enter_backend(session, dialect, &grant) {
            Ok((backend, answer)) => {
                // Who is logged in is not evicted for the time that led to it.
                client.command_is_complete();
                client.send(&answer, session.login_deadline())?;
                return Ok(backend);
            }
            Err(cause) => refuse_as_backend(session, client, dialect, &credentials, &grant, cause)?,
        }
    }
}

/// PROXY header, TLS, greeting.
fn open_client(
    session: &mut Session,
    client: &mut Conn,
    dialect: &dyn Dialect,
    opening: Opening,
) -> Result<(), Cause> {
    if opening.proxy_protocol {
        read_proxy_header(session, client)?;
    }
    session.begin_host_name();
    if opening.implicit_tls {
        session.start_tls(client)?;
    }
    delay_greeting(session, client)?;
    session.step = Step::SendingGreeting;
    let greeting = dialect.greeting(session)?;
    client.send(&greeting, session.budget.deadline())?;
    client.command_is_complete();
    Ok(())
}

/// On such a listener every connection begins with a header; it is believed from trusted peers only.
fn read_proxy_header(session: &mut Session, client: &mut Conn) -> Result<(), Cause> {
    session.step = Step::ReadingProxyProtocol;
    client.set_limit(proxy_protocol::MAX_HEADER);
    let header = loop {
        match proxy_protocol::parse(client.buffered()) {
            Parsed::Header(header) => break header,
            Parsed::Malformed => {
                return Err(Cause::BrokenProxyHeader(shown_of_header(client.buffered())));
            }
            Parsed::Incomplete => client.fill(session.budget.deadline())?,
        }
    };
    client.consume(header.len);
    client.set_limit(session.service.client_buffer());
    take_real_client(session, &header);
    Ok(())
}

/// What may be shown of something that is no header: a client that does not know of headers may have
/// sent its password.
fn shown_of_header(bytes: &[u8]) -> Vec<u8> {
    let length = match bytes.starts_with(b"PROXY") || bytes.starts_with(b"\r\n\r\n\0") {
        true => bytes.len().min(128),
        false => bytes
            .iter()
            .take(16)
            .take_while(|byte| byte.is_ascii_graphic())
            .count(),
    };
    bytes[..length].to_vec()
}

/// The client is whom the header names, if the peer may say so.
fn take_real_client(session: &mut Session, header: &Header) {
    session.proxied = header.addresses;
    let Some((source, _)) = header.addresses else {
        return;
    };
    if session
        .peer
        .is_trusted(&session.service.conf.set_real_ip_from)
    {
        session.client = source.into();
        session.place.moved_to(session.client);
    }
}

/// `smtp_greeting_delay`: who talks before the greeting does not speak SMTP but sends spam.
fn delay_greeting(session: &mut Session, client: &mut Conn) -> Result<(), Cause> {
    let delay = session.service.conf.smtp_greeting_delay;
    if session.service.conf.protocol != Protocol::Smtp || delay.is_zero() {
        return Ok(());
    }
    session.step = Step::InDelayPipelining;
    let deadline = Deadline::after(delay, "smtp_greeting_delay");
    client.excuse(deadline);
    // Over TLS there can be something to read without anything in it.
    while client.buffered().is_empty() && !client.read_ahead()? {
        match client.wait(WaitFor::Data, deadline)? {
            Seen::Nothing => return Ok(()),
            Seen::Data | Seen::HangUp if client.read_ahead()? => {}
            Seen::Data => {}
            Seen::HangUp => return Err(Cause::ClientGone),
        }
    }
    let said: Vec<u8> = without_credentials(client.buffered())
        .iter()
        .map(|&byte| {
            if matches!(byte, b'\r' | b'\n') {
                b'_'
            } else {
                byte
            }
        })
        .collect();
    let line = b"503 5.5.0 Improper use of SMTP command pipelining\r\n";
    client.send(line, session.budget.deadline())?;
    Err(Cause::ClientProtocol(format!(
        "client was rejected before greeting: \"{}\"",
        escape(&said)
    )))
}

/// The text up to the mechanism of an AUTH command.
fn without_credentials(text: &[u8]) -> &[u8] {
    const COMMAND: &[u8] = b"AUTH ";
    let begins = |at: &usize| {
        let line = &text[*at..];
        let is_first = *at == 0 || text[*at - 1] == b'\n';
        is_first
            && line.len() >= COMMAND.len()
            && line[..COMMAND.len()].eq_ignore_ascii_case(COMMAND)
    };
    let Some(at) = (0..text.len()).find(begins) else {
        return text;
    };
    let mechanism = at + COMMAND.len();
    let end = text[mechanism..].iter().position(u8::is_ascii_whitespace);
    &text[..end.map_or(text.len(), |end| mechanism + end)]
}

/// What becomes of a login.
enum Decision {
    /// It goes to a backend.
    Pass(Box<Grant>),
    /// The client is told so.
    Refuse(LoginRefusal),
}

/// Commands, and the authentication method's word on each login, until one may pass.
fn log_in(
    session: &mut Session,
    client: &mut Conn,
    dialect: &mut dyn Dialect,
) -> Result<(Credentials, Box<Grant>), Cause> {
    loop {
        let credentials = dialect.read_login(session, client)?;
        session.attempts += 1;
        session.method = Some(credentials.method);
        session.login = Some(credentials.login.clone()).filter(|login| !login.is_empty());
        let refusal = match authenticate(session, client, &credentials)? {
            Decision::Pass(grant) => {
                session.login = Some(grant.login.clone()).filter(|login| !login.is_empty());
                return Ok((credentials, grant));
            }
            Decision::Refuse(refusal) => refusal,
        };
        refuse(session, client, dialect, &credentials, &refusal)?;
    }
}

/// Asks until there is a decision.
fn authenticate(
    session: &mut Session,
    client: &mut Conn,
    credentials: &Credentials,
) -> Result<Decision, Cause> {
    for _ in 0..WAITS {
        match ask(session, credentials)? {
            Verdict::Granted(grant) => return check_sayable(session, credentials, grant),
            Verdict::Refused(refusal) => {
                return Ok(Decision::Refuse(allow_retry(session, refusal)));
            }
            Verdict::Wait(time) => client.pause(Deadline::after(time, "Auth-Wait"))?,
        }
    }
    Err(Cause::AuthService(
        format!("auth http server said WAIT {WAITS} times"),
        None,
    ))
}

/// Asks the authentication method once.
fn ask(session: &mut Session, credentials: &Credentials) -> Result<Verdict, Cause> {
    let client_host = match session.service.conf.auth {
        AuthKind::Http => {
            let client_host = client_host(session)?;
            session.step = Step::InHttpAuth;
            client_host
        }
        AuthKind::Passthrough => None,
    };
    let request = Request {
        credentials,
        attempt: session.attempts,
        client: session.client,
        client_host,
        proxied: session.proxied,
        tls: session.tls.as_ref(),
    };
    let warn = |warning: &Warning| {
        let Warning { src, text, error } = warning;
        session.log_failure(Severity::Warn, src, text, error.as_ref());
    };
    Ok(session.service.auth.authenticate(&request, &warn)?)
}

/// The host name of an SMTP client, which auth servers are told; waited for.
fn client_host(session: &mut Session) -> Result<Option<HostName>, Cause> {
    match session.service.conf.protocol {
        Protocol::Imap | Protocol::Pop3 => Ok(None),
        Protocol::Smtp => {
            let limit = 2 * session.service.conf.resolver_timeout;
            let deadline = Deadline::after(limit, "resolver_timeout");
            session.host_name(deadline).map(Some)
        }
    }
}

/// Nothing that would break a line goes to a backend. If it is the client's, its login has failed; if
/// it is the auth server's, the answer is unusable.
fn check_sayable(
    session: &Session,
    credentials: &Credentials,
    grant: Box<Grant>,
) -> Result<Decision, Cause> {
    let protocol = session.service.conf.protocol;
    if grant.is_sayable(protocol) {
        return Ok(Decision::Pass(grant));
    }
    if grant.client_is_sayable(protocol, credentials) {
        let text = "auth http server sent a login or password that breaks the line";
        return Err(Cause::AuthService(text.into(), None));
    }
    let refusal = LoginRefusal::failed();
    Ok(Decision::Refuse(allow_retry(session, refusal)))
}

/// With a method of our own the client may try again, a few times a session.
fn allow_retry(session: &Session, refusal: LoginRefusal) -> LoginRefusal {
    let may_retry = session.service.auth.is_own() && session.attempts < ATTEMPTS;
    LoginRefusal {
        again: refusal.again.or(may_retry.then_some(Duration::ZERO)),
        ..refusal
    }
}

/// Tells the client that its login was refused, after `Auth-Wait`. Without that the session ends.
fn refuse(
    session: &mut Session,
    client: &mut Conn,
    dialect: &dyn Dialect,
    credentials: &Credentials,
    refusal: &LoginRefusal,
) -> Result<(), Cause> {
    let text = format!("client login failed: \"{}\"", escape(&refusal.text));
    session.log(Severity::Info, file!(), &text);
    let line = dialect.refuse_login(refusal);
    if let Some(wait) = refusal.again {
        let paused = client.pause(Deadline::after(wait, "Auth-Wait"));
        session.budget.restart_time();
        if let Err(error) = paused {
            let cause = Cause::from(error);
            // Who has to make room hears first what became of the login.
            if matches!(cause, Cause::Evicted) {
                client.cannot_be_evicted();
                client.send(&line, Deadline::after(LAST_LINE, "timeout"))?;
            }
            return Err(cause);
        }
    }
    session.step = Step::InAuth;
    let said = match &refusal.sasl {
        Some(challenge) => {
            dialect::exchange_sasl_error(dialect, session, client, credentials.method, challenge)?
        }
        None => true,
    };
    if said {
        client.send(&line, session.budget.deadline())?;
    }
    if refusal.again.is_none() {
        return Err(Cause::Refused);
    }
    session.budget.restart_time();
    client.command_is_complete();
    Ok(())
}

/// Connects and logs in to the first host of the backend that serves. A host that refuses the login
/// has served.
fn enter_backend(
    session: &mut Session,
    dialect: &mut dyn Dialect,
    grant: &Grant,
) -> Result<(Conn, Line), Cause> {
    session.step = Step::ConnectingToUpstream;
    session.begin_login();
    let candidates = candidates(session, grant)?;
    let mut last = Cause::BackendConnect("upstream has no address".into(), None);
    for (at, candidate) in candidates.iter().enumerate() {
        let left = candidates.len() - at;
        session.begin_host(left);
        if at > 0 && session.login_deadline().remaining().is_none() {
            break;
        }
        let cause = match dial(session, grant, candidate).and_then(|mut backend| {
            let answer = dialect.log_in_to_backend(session, &mut backend, grant)?;
            Ok((backend, answer))
        }) {
            Ok(entered) => {
                note_answer(grant, candidate);
                return Ok(entered);
            }
            Err(cause) => cause,
        };
        if !cause.is_of_host() {
            note_answer(grant, candidate);
            return Err(cause);
        }
        if let Target::Backend(backend) = &grant.target {
            let reason = match cause.io_error() {
                Some(error) => format!("{cause}: {error}"),
                None => cause.to_string(),
            };
            backend.note_failure(candidate.address, &reason);
        }
        if left > 1 {
            let text = format!("{cause}, trying the next host");
            session.log_failure(Severity::Warn, file!(), &text, cause.io_error());
        }
        last = cause;
    }
    Err(last)
}

fn note_answer(grant: &Grant, candidate: &Candidate) {
    if let Target::Backend(backend) = &grant.target {
        backend.note_answer(candidate.address);
    }
}

/// A backend that decides has refused the login: the client is told, and may try again. Any other
/// failure ends the session.
fn refuse_as_backend(
    session: &mut Session,
    client: &mut Conn,
    dialect: &dyn Dialect,
    credentials: &Credentials,
    grant: &Grant,
    cause: Cause,
) -> Result<(), Cause> {
    match &cause {
        Cause::BackendRefused(refusal)
            if refusal.kind == RefusalKind::Login && grant.passthrough =>
        {
            session.log(Severity::Info, file!(), &cause.to_string());
        }
        _ => return Err(cause),
    }
    session.upstream = None;
    let refusal = allow_retry(session, LoginRefusal::failed());
    refuse(session, client, dialect, credentials, &refusal)
}

/// The last line to the client, the lines in the log, and the close.
fn end(session: Session, mut client: Conn, dialect: &dyn Dialect, cause: Cause) {
    let cause = match cause {
        Cause::Evicted if session.place.presence().is_dismissed() => Cause::Stopped,
        cause => cause,
    };
    let reason = cause.reason();
    let error = SessionError {
        step: session.step,
        cause,
    };
    session.log_failure(
        error.cause.severity(),
        file!(),
        &error.cause.to_string(),
        error.cause.io_error(),
    );
    client.cannot_be_evicted();
    let line = dialect.failure_line(&error.cause, session.service.auth.is_own());
    if let Some(line) = line.filter(|_| !session.tls_is_due) {
        // The client may be gone, or deaf; then it hears nothing.
        let _ = client.send(&line, Deadline::after(LAST_LINE, "timeout"));
    }
    client.close_after_line();
    session.log_closing(reason, 0, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_ends_before_credentials() {
        let shown =
            |text: &str| String::from_utf8_lossy(without_credentials(text.as_bytes())).into_owned();
        assert_eq!(
            shown("EHLO x\r\nauth PLAIN AGJv\r\n"),
            "EHLO x\r\nauth PLAIN"
        );
        assert_eq!(shown("AUTH LOGIN\r\nYm9i\r\ncHc=\r\n"), "AUTH LOGIN");
        assert_eq!(shown("MAIL FROM:<a@b>\r\n"), "MAIL FROM:<a@b>\r\n");
        assert_eq!(shown_of_header(b"a LOGIN bob pw\r\n"), b"a");
        assert_eq!(shown_of_header(b"PROXY TCP4 x"), b"PROXY TCP4 x");
    }
}
