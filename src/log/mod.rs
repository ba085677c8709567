//! The log: severities, the targets of a section, and what a line says.
//!
//! A `Log` decides which targets a line reaches; `line` lays it out, `escape` makes network text
//! harmless, `brake` and `seldom` keep crowds from filling it, `router` keeps the open destinations, each a
//! logger of simplelog, `sink` and `syslog` hand it to the system.
//! Nothing here decides what is worth a line, and nothing here fails or blocks a session.

mod brake;
mod escape;
mod line;
mod router;
mod seldom;
mod sink;
mod syslog;
mod target;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub(crate) use brake::{Allowance, Brake, Whose};
pub(crate) use escape::escape;
pub(crate) use router::{hand_over, reopen};
pub(crate) use seldom::Seldom;

use line::Line;
use router::Destination;
pub(crate) use target::{LogDestination, LogFormat, LogTarget, Syslog, SyslogServer, TextLayout};

/// The tag that lines of servers and sessions have besides those of `error_log_user_tag`.
const MAIL_TAG: &str = "mail";

/// Longest line in a file or on standard error, in bytes, newline included: what a pipe takes in one piece.
const LINE_LIMIT: usize = 4096;

/// Longest line in a syslog datagram, in bytes, header excluded.
const DATAGRAM_LIMIT: usize = 2048;

/// The level that holds for all targets instead of their own: 0 is none, otherwise its place in
/// [`Severity::ALL`] from 1.
static LEVEL: AtomicUsize = AtomicUsize::new(0);

/// Lets this level hold for all targets, instead of their own; `None` gives them these back.
pub(crate) fn set_level(level: Option<Severity>) {
    LEVEL.store(
        level.map_or(0, |level| level as usize + 1),
        Ordering::Relaxed,
    );
}

/// The level that was set for all targets, if one was.
pub(crate) fn level() -> Option<Severity> {
    let place = LEVEL.load(Ordering::Relaxed).checked_sub(1)?;
    Severity::ALL.get(place).copied()
}

/// The targets and tags of one section; clones share them.
#[derive(Clone)]
pub(crate) struct Log {
    section: Arc<Section>,
}

struct Section {
    targets: Vec<Target>,
    /// The lowest level of all targets; `None` when nothing is logged at all.
    least: Option<Severity>,
    /// Value of the JSON member `tags`.
    tags: String,
}

struct Target {
    destination: Arc<Destination>,
    level: Severity,
    format: LogFormat,
    layout: TextLayout,
    syslog: Option<Syslog>,
}

impl Log {
    /// The log of a server and its sessions: `error_log` and `error_log_user_tag` of its section.
    ///
    /// Opens files (appended to, created with mode 0640) and sockets, and looks up the names of syslog
    /// collectors; a destination that is already open is shared. No targets at all stand for `stderr info`.
    ///
    /// # Errors
    /// Names the file or collector that cannot be opened.
    pub(crate) fn open(
        targets: &[LogTarget],
        tags: &[String],
        layout: TextLayout,
    ) -> Result<Log, String> {
        let tags: Vec<&str> = [MAIL_TAG]
            .into_iter()
            .chain(tags.iter().map(String::as_str))
            .collect();
        Log::with_tags(targets, &tags, layout)
    }

    /// The log of the process, outside servers: like [`Log::open`], but without the tag `mail`.
    ///
    /// # Errors
    /// Those of [`Log::open`].
    pub(crate) fn open_process(
        targets: &[LogTarget],
        tags: &[String],
        layout: TextLayout,
    ) -> Result<Log, String> {
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        Log::with_tags(targets, &tags, layout)
    }

    fn with_tags(targets: &[LogTarget], tags: &[&str], layout: TextLayout) -> Result<Log, String> {
        let default = LogTarget {
            destination: LogDestination::Stderr,
            level: Severity::Info,
            format: LogFormat::Text,
            filter: None,
        };
        let targets = if targets.is_empty() {
            std::slice::from_ref(&default)
        } else {
            targets
        };
        let mut opened = Vec::new();
        for target in targets {
            let destination = router::open(&target.destination)?;
            // A section's tags never change, so its filters are decided here.
            if target
                .filter
                .as_deref()
                .is_some_and(|tag| !tags.contains(&tag))
            {
                continue;
            }
            opened.push(Target {
                destination,
                level: target.level,
                format: target.format,
                layout,
                syslog: match &target.destination {
                    LogDestination::Syslog(syslog) => Some(syslog.clone()),
                    LogDestination::Stderr | LogDestination::File(_) => None,
                },
            });
        }
        Ok(Log::of(opened, tags))
    }

    fn of(targets: Vec<Target>, tags: &[&str]) -> Log {
        let section = Section {
            least: targets.iter().map(|target| target.level).min(),
            targets,
            tags: serde_json::Value::from(tags).to_string(),
        };
        Log {
            section: Arc::new(section),
        }
    }

    /// Whether a line of this severity reaches any target: to be asked before a costly message is made.
    pub(crate) fn enabled(&self, severity: Severity) -> bool {
        let least = self.section.least;
        least.is_some_and(|least| severity >= level().unwrap_or(least))
    }

    /// Writes one line to every target that wants it. Never fails: what cannot be written is forgotten.
    ///
    /// `src` is the caller's `file!()`. Text from the network that stands in `message` went through
    /// [`escape()`]. `error` is the system call that failed; `context` is there in sessions.
    pub(crate) fn write(
        &self,
        severity: Severity,
        src: &'static str,
        message: &str,
        error: Option<&io::Error>,
        context: Option<&Context<'_>>,
    ) {
        if !self.enabled(severity) {
            return;
        }
        let line = Line::now(severity, src, message, error, context, &self.section.tags);
        let of_all = level();
        for target in &self.section.targets {
            if severity >= of_all.unwrap_or(target.level) {
                target.write(&line);
            }
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self
            .section
            .targets
            .iter()
            .map(|target| target.destination.name());
        f.debug_list().entries(names).finish()
    }
}

impl Target {
    fn write(&self, line: &Line<'_>) {
        let limit = if self.syslog.is_some() {
            DATAGRAM_LIMIT
        } else {
            LINE_LIMIT - 1
        };
        let body = match self.format {
            LogFormat::Text => line.text(self.layout, line::local_zone(), limit),
            LogFormat::Json => line.json(limit),
        };
        let finished = match &self.syslog {
            Some(syslog) => {
                syslog::header(syslog, line.severity, line.time, line::local_zone()) + &body
            }
            None => body,
        };
        self.destination.write(line.severity, &finished);
    }
}

/// syslog's eight severities, most harmless first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// What the program does, step by step.
    Debug,
    /// What sessions do.
    Info,
    /// What an operator may want to see.
    Notice,
    /// What may become a fault.
    Warn,
    /// A session, or one step of the process, failed.
    Error,
    /// A part of the service does not work.
    Crit,
    /// Somebody must act at once.
    Alert,
    /// Nothing works.
    Emerg,
}

impl Severity {
    /// Most harmless first.
    pub(crate) const ALL: [Severity; 8] = [
        Severity::Debug,
        Severity::Info,
        Severity::Notice,
        Severity::Warn,
        Severity::Error,
        Severity::Crit,
        Severity::Alert,
        Severity::Emerg,
    ];

    /// The severity of this name, as `error_log` spells it (lower case).
    pub fn parse(name: &str) -> Option<Severity> {
        Severity::ALL
            .into_iter()
            .find(|severity| severity.name() == name)
    }

    /// The name in `error_log` and in lines.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Debug => "debug",
            Severity::Info => "info",
            Severity::Notice => "notice",
            Severity::Warn => "warn",
            Severity::Error => "error",
            Severity::Crit => "crit",
            Severity::Alert => "alert",
            Severity::Emerg => "emerg",
        }
    }
}

/// What a session's line says besides its message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    /// The session's number.
    pub connection: u64,
    /// The step under way (`SSL handshaking`); text puts ` while ` before it.
    pub action: Option<&'static str>,
    /// Who the client is; `None` is a Unix socket.
    pub client: Option<SocketAddr>,
    /// The socket's peer, which differs from the client behind a balancer; `None` is a Unix socket.
    pub peer: Option<SocketAddr>,
    /// Our end of the client's connection; `None` is a Unix socket.
    pub server: Option<SocketAddr>,
    /// Whether STARTTLS was done.
    pub starttls: bool,
    /// The login as the client sent it, or as the auth server replaced it.
    pub login: Option<&'a [u8]>,
    /// The backend or auth server talked to, as `ADDR:PORT`.
    pub upstream: Option<&'a str>,
    /// What the closing line alone has.
    pub closing: Option<&'a Closing<'a>>,
}

/// The fields of the closing line; what is `None` is left out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Closing<'a> {
    /// `imap`, `pop3` or `smtp`.
    pub protocol: &'a str,
    /// Authentication method.
    pub method: Option<&'a str>,
    /// TLS version and cipher towards the client.
    pub tls: Option<&'a str>,
    /// Backend of the session.
    pub backend: Option<&'a str>,
    /// TLS version towards the backend.
    pub backend_tls: Option<&'a str>,
    /// Bytes from the client to the backend.
    pub bytes_in: u64,
    /// Bytes from the backend to the client.
    pub bytes_out: u64,
    /// From accept to close.
    pub duration: Duration,
    /// From accept to the end of the backend's login.
    pub login_time: Option<Duration>,
    /// What the authentication method took for the last login.
    pub auth_time: Option<Duration>,
    /// From the connect to the backend to its final OK.
    pub backend_time: Option<Duration>,
    /// Of a relay that was cut: bytes that did not arrive, at either end.
    pub undelivered: Option<u64>,
    /// Why the session ended, in a few words.
    pub reason: &'a str,
}

#[cfg(test)]
mod tests;
