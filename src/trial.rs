//! `postern try-login`: a session of the real code in a process of its own, with a client that logs in and
//! leaves. What the log says on level debug are the steps.
//!
//! Nothing is logged in to here: the session asks, connects and decides as it does for everybody. No process
//! has to run for it, and one that does knows nothing of it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crossbeam_channel::unbounded;
use jiff::Timestamp;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::admission::Entry;
use crate::config::{self, AuthKind, Config, Server, Starttls};
use crate::daemon;
use crate::log::{LogDestination, LogFormat, LogTarget, Severity};
use crate::metrics::Outcome;
use crate::net::address::Address;
use crate::net::socket::Socket;
use crate::protocol::Protocol;
use crate::sasl::{Identity, Message, PLAIN, ToBackend};
use crate::secret::Secret;
use crate::service::{self, Kept};
use crate::session::Runtime;
use crate::session::turn::{self, Arrival};
use crate::system::privileges;
use crate::system::threads::spawn;

/// A line of the session's log.
#[derive(Debug)]
pub(crate) struct Step {
    /// Milliseconds since the first one.
    pub millis: i64,
    /// What became of it.
    pub state: State,
    /// What was done or said, without credentials. Peers' texts are in it, escaped.
    pub text: String,
    /// All that the log says of it, as JSON.
    pub line: String,
}

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Something was said; what it means comes later.
    Said,
    /// The login is a step further.
    Done,
    /// It is not.
    Failed,
}

/// What the login came to.
#[derive(Debug)]
pub(crate) struct Finding {
    /// What became of it.
    pub outcome: Outcome,
    /// The same in a sentence.
    pub text: String,
    /// What to do about it; empty where there is nothing to be done.
    pub advice: String,
}

/// The server of this name, or the only one.
///
/// # Errors
/// There is no such server, or there are several and none is named.
pub(crate) fn choose<'a>(config: &'a Config, name: Option<&str>) -> Result<&'a Server, String> {
    let names: Vec<_> = config.servers.iter().map(|it| it.name.as_str()).collect();
    let names = names.join(", ");
    let chosen = match (name, config.servers.as_slice()) {
        (Some(name), servers) => servers.iter().find(|server| server.name == name),
        (None, [only]) => Some(only),
        (None, _) => return Err(format!("name one of the servers with --server: {names}")),
    };
    chosen.ok_or_else(|| format!("there is no such server; there are: {names}"))
}

/// The message of a login that a client sends.
///
/// # Errors
/// No client can send it: something is empty, or has a NUL in it.
pub(crate) fn message(login: &str, password: &Secret) -> Result<Message, String> {
    if login.is_empty() || password.is_empty() {
        return Err("a login and a password are needed; neither may be empty".to_owned());
    }
    let identity = Identity {
        authzid: None,
        login: login.as_bytes().into(),
        secret: password,
    };
    let encoded = match PLAIN.to_backend {
        ToBackend::Message(encode) => encode(&identity),
        ToBackend::TwoAnswers | ToBackend::Never => None,
    };
    encoded.ok_or_else(|| "a login or password with a NUL cannot be sent".to_owned())
}

/// Tries it. The process becomes the configured user, as the service does.
///
/// # Errors
/// For people: what kept the session from beginning.
pub(crate) fn run(
    config: &Config,
    server: &Server,
    message: &Message,
    mut show: impl FnMut(&Step),
) -> Result<Finding, String> {
    let _ = privileges::forbid_core_files();
    let (lines, to_log) = io::pipe().map_err(|error| format!("no pipe: {error}"))?;
    let config = of_trial(config, server, to_log.as_raw_fd());
    let process = &config.process;
    let services = service::build(&config, &Kept::default().next(&config))?;
    let service = services.first().ok_or("there is no server")?;
    if let Some((user, group)) = privileges::target(&process.user, &process.group)? {
        privileges::drop_root(&user, group)?;
    }
    let runtime = Runtime::start(daemon::admission_limits(process))
        .map_err(|error| format!("cannot start the threads for sessions: {error}"))?;
    let (client, accepted, peer) =
        connect().map_err(|error| format!("no connection on 127.0.0.1: {error}"))?;
    let Entry::Admitted { place, .. } = runtime.admission.enter(peer) else {
        return Err("`max_sessions` leaves no room for a session".to_owned());
    };
    let said = what_to_say(server.protocol, message);
    spawn("client", move || speak(client, &said))
        .map_err(|error| format!("cannot start a thread: {error}"))?;
    let arrival = Arrival {
        service: Arc::clone(service),
        implicit_tls: false,
        proxy_protocol: false,
        socket: Arc::new(accepted),
        peer,
        place,
    };
    turn::begin(&runtime, arrival);
    let seen = follow(lines, &mut show).map_err(|error| format!("the log breaks off: {error}"))?;
    Ok(finding(&runtime, server, &seen))
}

/// The server alone, in plain text, with everything in one log.
fn of_trial(config: &Config, server: &Server, log: i32) -> Config {
    let target = LogTarget {
        destination: LogDestination::File(format!("/proc/self/fd/{log}").into()),
        level: Severity::Debug,
        format: LogFormat::Json,
        filter: None,
    };
    let server = Server {
        error_log: vec![target.clone()],
        starttls: Starttls::Off,
        listen: Vec::new(),
        ..server.clone()
    };
    Config {
        process: config::Process {
            error_log: vec![target],
            ..config.process.clone()
        },
        servers: vec![server],
        ..config.clone()
    }
}

/// A connection to ourselves: the client's end, the session's, and the client's address.
fn connect() -> io::Result<(TcpStream, Socket, Address)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let own: SocketAddr = client.local_addr()?;
    loop {
        // Others can connect there too.
        let (accepted, peer) = listener.accept()?;
        if peer == own {
            return Ok((client, Socket::accepted(accepted.into()), peer.into()));
        }
    }
}

fn what_to_say(protocol: Protocol, message: &Message) -> Zeroizing<Vec<u8>> {
    let encoded = Zeroizing::new(STANDARD.encode(&**message));
    let [before, behind] = protocol.record().login_and_leave;
    Zeroizing::new([before, &encoded, behind].concat().into_bytes())
}

/// The client: it lets itself be greeted, says everything at once, and hears the answers to the end. They are
/// in the log.
fn speak(mut client: TcpStream, said: &[u8]) {
    let mut answer = [0; 4096];
    let is_greeted = client.read(&mut answer).is_ok_and(|count| count > 0);
    if is_greeted && client.write_all(said).is_ok() {
        while client.read(&mut answer).is_ok_and(|count| count > 0) {}
    }
}

/// What of the log the finding needs.
#[derive(Default)]
struct SeenLines {
    /// The backend that was talked to last.
    upstream: Option<String>,
    /// Why the session ended, in two words.
    reason: String,
}

/// Shows each line, up to that with which the session ends.
fn follow(lines: io::PipeReader, show: &mut impl FnMut(&Step)) -> io::Result<SeenLines> {
    let mut seen = SeenLines::default();
    let mut first = None;
    // The log waits for nobody, and whoever is shown the steps may be slow.
    let (sender, read) = unbounded();
    spawn("log", move || {
        let mut lines = BufReader::new(lines).lines().map_while(Result::ok);
        while lines.next().is_some_and(|line| sender.send(line).is_ok()) {}
    })?;
    for line in read {
        let json: Value = serde_json::from_str(&line)?;
        let severity = json["level"].as_str().and_then(Severity::parse);
        let severity = severity.unwrap_or(Severity::Debug);
        if let Some(upstream) = json["mail"]["upstream"].as_str() {
            seen.upstream = Some(upstream.to_owned());
        }
        let closing = json["session"]["reason"].as_str();
        if let Some(text) = text_of(&json) {
            let time: Option<Timestamp> = json["time"].as_str().and_then(|at| at.parse().ok());
            let time = time.map_or(0, Timestamp::as_millisecond);
            let action = json["mail"]["action"].as_str();
            let state = match severity {
                _ if closing.is_some() => State::Said,
                Severity::Debug => State::Said,
                Severity::Info | Severity::Notice if action.is_none() => State::Done,
                _ => State::Failed,
            };
            let action = action.filter(|_| state == State::Failed);
            show(&Step {
                millis: time - *first.get_or_insert(time),
                state,
                text: match action {
                    Some(action) => format!("{text}, while {action}"),
                    None => text,
                },
                line,
            });
        }
        if let Some(reason) = closing {
            seen.reason = reason.to_owned();
            return Ok(seen);
        }
        if severity == Severity::Alert {
            seen.reason = "internal error".to_owned();
            return Ok(seen);
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

/// The message with what the log keeps apart from it; `None` for what only tells how threads are shared.
fn text_of(json: &Value) -> Option<String> {
    let message = json["message"].as_str()?;
    if message == turn::SLEEPS || message == turn::WAKES {
        return None;
    }
    let mut text = message.to_owned();
    if let Some(error) = json["error"]["message"].as_str() {
        text += &format!(": {error}");
    }
    let session = &json["session"];
    if let Some(reason) = session["reason"].as_str() {
        text += &format!(": {reason}");
        for (name, what) in [("auth_time", "auth"), ("backend_time", "backend")] {
            if let Some(seconds) = session[name].as_f64() {
                text += &format!(", {what} {:.0} ms", seconds * 1000.0);
            }
        }
    }
    Some(text)
}

/// What the login came to, and what to do about it.
fn finding(runtime: &Runtime, server: &Server, seen: &SeenLines) -> Finding {
    let minutes = runtime.lately.minutes();
    let failed = runtime.lately.failures().into_iter().next_back();
    let (outcome, detail) = match failed {
        Some(failed) => (failed.outcome, failed.detail.clone()),
        None if minutes.iter().any(|minute| minute.succeeded > 0) => {
            (Outcome::Success, String::new())
        }
        None => (Outcome::Aborted, seen.reason.clone()),
    };
    let backend = seen.upstream.as_deref().unwrap_or("the backend");
    let decides = server.auth;
    let (text, advice) = match outcome {
        Outcome::Success => (format!("logged in at {backend}"), ""),
        Outcome::Refused if decides == AuthKind::Http => (
            format!("the auth server refuses the login: {detail}"),
            "the password is wrong, or the auth server does not want this user here: look into its log",
        ),
        Outcome::Refused if seen.upstream.is_some() => (
            format!("the backend {backend} refuses the login: {detail}"),
            "the password is wrong, or the backend does not want this user: look into its log",
        ),
        Outcome::Refused if decides == AuthKind::File => (
            format!("the file of users refuses the login: {detail}"),
            "a step above says why: see `auth_file`, or where no route fits, [routes] and `login_domain`",
        ),
        Outcome::Refused => (
            format!("the login goes to no backend: {detail}"),
            "see [routes] and its maps, and `login_domain`",
        ),
        Outcome::BackendRefused => (
            format!("the backend does not accept a login that may pass: {detail}"),
            "auth server and backend know different logins or passwords (Auth-User, Auth-Pass), or the \
             backend wants another way to log in: look into its log",
        ),
        Outcome::BackendUnavailable => (
            format!("no backend serves: {detail}"),
            advice_about_backend(&seen.reason),
        ),
        Outcome::AuthUnavailable => (
            format!("the auth server does not decide: {detail}"),
            "see whether it runs and answers at `auth_http`, within `auth_http_timeout`",
        ),
        Outcome::Aborted => (format!("the session ended before its login: {detail}"), ""),
        Outcome::Error => (
            format!("something is wrong on this side: {detail}"),
            "see the configuration and the steps above",
        ),
    };
    Finding {
        outcome,
        text,
        advice: advice.to_owned(),
    }
}

/// By the reason with which the session ended.
fn advice_about_backend(reason: &str) -> &'static str {
    match reason {
        "backend TLS" => {
            "see the certificate of the backend: it must be valid now, be for the name that is connected to \
             (`proxy_ssl_name`), and be issued by whom `proxy_ssl_trusted_certificate` names"
        }
        "backend timeout" => {
            "see whether the backend answers on this port, whether TLS has to come first (`proxy_ssl`), and \
             whether it waits for a PROXY header (`proxy_protocol`)"
        }
        "backend connect" => {
            "see whether the backend runs, whether host and port are right, and whether a firewall is in \
             between"
        }
        _ => {
            "see what the backend said last, and its log; a PROXY header that it does not expect, or misses \
             (`proxy_protocol`), ends a connection as well"
        }
    }
}
