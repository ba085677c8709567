//! The table of directives: name, sections, kind, default and help of each stand here and nowhere
//! else.
//!
//! Its order is the order of the reference. Defaults are text and take the way of the operator's
//! text. A directive that is known and refused is a row with `NotYet`. One table, therefore a long file.

use std::path::{Path, PathBuf};

use super::address::{http_url, range, resolver, trusted_peer};
use super::backend;
use super::deny::deny_items;
use super::draft::Draft;
use super::listen::{listen, status};
use super::log_target::error_log;
use super::mistake::WrongValue;
use super::route::{domain, parse_route};
use super::store_url::store_url;
use super::tls_value::{
    conf_command, curves, fingerprint, openssl_list, peer_name, protocols, session_cache,
};
use super::value::{
    self, FROM_A_SECOND, FROM_ZERO, PENALTY, POSITIVE, UP_TO_A_DAY, UP_TO_A_DAY_FROM_A_SECOND,
    account, capabilities, count, count_or_off, flag, header, mechanism_words, mechanisms, one_of,
    path, server_name, size, tags, time, time_or_off,
};
use super::{
    AuthKind, AuthMechanism, Balance, Capabilities, Control, PlainLoginAnswer, ProxyProtocol,
    ProxySsl, RouteLine, SendClientId, Starttls, Xclient,
};
use crate::log::TextLayout;
use crate::protocol::Protocol::{self, Imap, Pop3, Smtp};
use crate::tls::{Library, LoginFrom, VerifyClient};

/// The kinds of sections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SectionKind {
    /// `[postern]`
    Postern,
    /// `[mail]`
    Mail,
    /// `[server NAME]`
    Server,
    /// `[backend NAME]`
    Backend,
    /// `[routes]`
    Routes,
}

impl SectionKind {
    /// In the order of the sample.
    pub(super) const ALL: [Self; 5] = [
        Self::Postern,
        Self::Mail,
        Self::Server,
        Self::Backend,
        Self::Routes,
    ];

    /// First word of the section's name.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Postern => "postern",
            Self::Mail => "mail",
            Self::Server => "server",
            Self::Backend => "backend",
            Self::Routes => "routes",
        }
    }

    /// Whether a NAME follows the word.
    pub(super) fn is_named(self) -> bool {
        matches!(self, Self::Server | Self::Backend)
    }
}

/// One row of the table.
#[derive(Debug)]
pub(super) struct Directive {
    /// The key.
    pub(super) name: &'static str,
    /// Sections it may stand in.
    pub(super) sections: &'static [SectionKind],
    /// What a value looks like, for people.
    kind: &'static str,
    /// What belongs behind `kind`, where it comes from another table.
    words: Option<fn() -> String>,
    /// What holds where it is not set.
    pub(super) default: DefaultValue,
    /// How a value reaches its field.
    pub(super) setter: Setter,
    /// One or two sentences for an administrator.
    pub(super) help: &'static str,
    /// Whether it may stand several times, one entry a line.
    pub(super) repeatable: bool,
    /// The only protocol on which it has an effect.
    pub(super) only: Option<Protocol>,
    /// A value for the sample where the default is none.
    pub(super) example: &'static str,
}

/// What holds where a directive is not set.
#[derive(Debug, Clone, Copy)]
pub(super) enum DefaultValue {
    /// A value, which passes through the setter.
    Text(&'static str),
    /// A value in `[postern]`; servers without their own share the process's.
    OfProcess(&'static str),
    /// A value in `[backend]`, and another one elsewhere.
    InBackend(&'static str, &'static str),
    /// `auto` where a `[backend]` is configured, otherwise a value.
    OrAuto(&'static str),
    /// The machine's host name.
    HostName,
    /// No value, so that a TLS library need not refuse what nobody asked for; the text says what it
    /// does by itself.
    Implied(&'static str),
    /// No value; the text says what that means.
    Unset(&'static str),
    /// `check` refuses a server without it.
    Required,
}

/// How a value reaches its field.
#[derive(Debug, Clone, Copy)]
pub(super) enum Setter {
    /// Changes the draft or says what is wrong with the text.
    Is(fn(&mut Draft, &str) -> Result<(), WrongValue>),
    /// Known, but refused.
    NotYet,
}

/// What the values of a directive look like, as far as nginx writes such values otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueShape {
    /// A file name.
    File,
    /// A time, such as `1h30m`.
    Time,
    /// Items, in quotes where they hold a space.
    List,
    /// One of some fixed words, in lower case.
    Word,
    /// Anything else.
    Text,
}

impl Directive {
    fn shape(&self) -> ValueShape {
        let is_word = |word: &str| {
            word.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        };
        match self.kind {
            FILE => ValueShape::File,
            kind if kind.starts_with(TIME) => ValueShape::Time,
            kind if kind.starts_with(LIST) && !kind.ends_with(BY_COLONS) => ValueShape::List,
            // Its words are those of another table.
            "" => ValueShape::Word,
            kind if kind.contains(" | ") && kind.split(" | ").all(is_word) => ValueShape::Word,
            _ => ValueShape::Text,
        }
    }

    /// Whether it may stand in such a section.
    pub(super) fn stands_in(&self, kind: SectionKind) -> bool {
        self.sections.contains(&kind)
    }

    /// Whether a value is a file that is read while the process runs.
    pub(super) fn is_file_to_read(&self) -> bool {
        self.kind == FILE && !["pid", "ssl_dhparam"].contains(&self.name)
    }

    /// What a value looks like, for people.
    pub(super) fn kind_text(&self) -> String {
        let words = self.words.map(|words| words()).unwrap_or_default();
        format!("{} {words}", self.kind).trim().to_owned()
    }

    /// The default for people.
    pub(super) fn default_text(&self) -> String {
        let text = match self.default {
            DefaultValue::Text(text)
            | DefaultValue::OfProcess(text)
            | DefaultValue::Implied(text)
            | DefaultValue::Unset(text) => text,
            DefaultValue::InBackend(there, text) => {
                return format!("{text}; {there} in [backend NAME]");
            }
            DefaultValue::OrAuto(text) => {
                let text = if text.is_empty() { "none" } else { text };
                return format!("auto where a [backend NAME] is configured, otherwise {text}");
            }
            DefaultValue::HostName => "the machine's host name",
            DefaultValue::Required => "required",
        };
        text.to_owned()
    }

    const fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    const fn only(mut self, protocol: Protocol) -> Self {
        self.only = Some(protocol);
        self
    }

    const fn words(mut self, words: fn() -> String) -> Self {
        self.words = Some(words);
        self
    }

    const fn example(mut self, example: &'static str) -> Self {
        self.example = example;
        self
    }
}

/// The row of a key, whatever its section.
pub(super) fn find(name: &str) -> Option<&'static Directive> {
    DIRECTIVES.iter().find(|directive| directive.name == name)
}

/// What another program's configuration has to know of a key that we have.
#[derive(Debug, Clone, Copy)]
pub struct KnownDirective(&'static Directive);

/// The key of this name, if there is one.
pub fn known_directive(name: &str) -> Option<KnownDirective> {
    find(name).map(KnownDirective)
}

impl KnownDirective {
    /// The key.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Whether it may stand in `[postern]`.
    pub fn is_of_process(self) -> bool {
        self.0.stands_in(SectionKind::Postern)
    }

    /// Whether it may stand in `[mail]` or `[server NAME]`.
    pub fn is_of_mail(self) -> bool {
        self.0.stands_in(SectionKind::Mail) || self.0.stands_in(SectionKind::Server)
    }

    /// Where it may stand, such as `[mail] or [server NAME]`.
    pub fn sections(self) -> String {
        let header = |kind: &SectionKind| match kind.is_named() {
            true => format!("[{} NAME]", kind.word()),
            false => format!("[{}]", kind.word()),
        };
        let headers: Vec<String> = self.0.sections.iter().map(header).collect();
        headers.join(" or ")
    }

    /// What its values look like.
    pub fn shape(self) -> ValueShape {
        self.0.shape()
    }

    /// What holds where it is not set, as the reference has it.
    pub fn default_text(self) -> String {
        self.0.default_text()
    }
}

const fn row(
    name: &'static str,
    sections: &'static [SectionKind],
    kind: &'static str,
    default: DefaultValue,
    setter: Setter,
    help: &'static str,
) -> Directive {
    Directive {
        name,
        sections,
        kind,
        words: None,
        default,
        setter,
        help,
        repeatable: false,
        only: None,
        example: "",
    }
}

fn put<T>(field: &mut T, value: Result<T, String>) -> Result<(), WrongValue> {
    *field = value?;
    Ok(())
}

fn put_mechanisms(draft: &mut Draft, text: &str, protocol: Protocol) -> Result<(), WrongValue> {
    let (listed, twice) = mechanisms(text, protocol)?;
    draft.server.of_protocol[protocol].auth = listed;
    draft.warnings.extend(twice);
    Ok(())
}

fn not_empty(items: Result<Capabilities, String>) -> Result<Capabilities, String> {
    match items {
        Ok(Capabilities::Fixed(items)) if items.is_empty() => Err("is empty".to_owned()),
        other => other,
    }
}

fn set_auth(draft: &mut Draft, text: &str) -> Result<(), WrongValue> {
    let kinds = [AuthKind::Http, AuthKind::Passthrough, AuthKind::File];
    let words = kinds.map(|kind| (kind.word(), kind));
    draft.auth = Some(one_of(text, &words)?);
    Ok(())
}

fn set_tls_library(draft: &mut Draft, text: &str) -> Result<(), WrongValue> {
    let words = [("rustls", Library::Rustls), ("native", Library::Native)];
    let library = one_of(text, &words)?;
    let server = &mut draft.server;
    server.tls.tls_library = library;
    server.proxy_tls.tls_library = library;
    server.auth_http_tls.tls_library = library;
    Ok(())
}

fn put_file(
    draft: &mut Draft,
    text: &str,
    field: fn(&mut Draft) -> &mut Option<PathBuf>,
) -> Result<(), WrongValue> {
    let file = path(text, &draft.folder)?;
    *field(draft) = Some(file);
    Ok(())
}

fn add_file(
    draft: &mut Draft,
    text: &str,
    field: fn(&mut Draft) -> &mut Vec<PathBuf>,
) -> Result<(), WrongValue> {
    let file = path(text, &draft.folder)?;
    field(draft).push(file);
    Ok(())
}

/// `control`.
pub(super) fn control(text: &str, folder: &Path) -> Result<Control, String> {
    match text.eq_ignore_ascii_case("off") {
        true => Ok(Control::Off),
        false => path(text, folder).map(Control::At),
    }
}

fn add<T>(list: &mut Vec<T>, item: Result<T, String>) -> Result<(), WrongValue> {
    list.push(item?);
    Ok(())
}

const POSTERN: &[SectionKind] = &[SectionKind::Postern];
const SERVER: &[SectionKind] = &[SectionKind::Server];
const MAIL: &[SectionKind] = &[SectionKind::Mail, SectionKind::Server];
const LOG: &[SectionKind] = &[SectionKind::Postern, SectionKind::Mail, SectionKind::Server];
const TO_BACKEND: &[SectionKind] = &[SectionKind::Mail, SectionKind::Server, SectionKind::Backend];
const BACKEND: &[SectionKind] = &[SectionKind::Backend];
const ROUTES: &[SectionKind] = &[SectionKind::Routes];

const SWITCH: &str = "on | off";
const TIME: &str = "time";
const SIZE: &str = "size";
const FILE: &str = "file";
const LIST: &str = "list";
const BY_COLONS: &str = "separated by colons";
const WORD: &str = "name";

const CLIENT_BUFFER: std::ops::RangeInclusive<usize> = 1024..=1024 * 1024;
const RELAY_BUFFER: std::ops::RangeInclusive<usize> = 1024..=16 * 1024 * 1024;

use DefaultValue::{HostName, Implied, InBackend, OfProcess, OrAuto, Required, Text, Unset};

/// Every kind of TLS towards a backend.
const PROXY_SSL: [(&str, ProxySsl); 3] = [
    ("off", ProxySsl::Off),
    ("on", ProxySsl::On),
    ("starttls", ProxySsl::StartTls),
];

const HOSTS: &str = "list of NAME-OR-ADDRESS[:PORT]; IPv6 addresses in brackets";

/// `imap_hosts` and its like.
fn own_hosts(draft: &mut Draft, protocol: Protocol, text: &str) -> Result<(), WrongValue> {
    let (hosts, twice) = backend::hosts(text)?;
    draft.backend.own_hosts[protocol] = Some(hosts);
    draft.warnings.extend(twice);
    Ok(())
}
use Setter::{Is, NotYet};

/// Every directive, in the order of the reference.
pub(super) static DIRECTIVES: &[Directive] = &[
    // The process.
    row(
        "workers",
        POSTERN,
        "number, 1 to 10000",
        Text("1024"),
        Is(|d, v| put(&mut d.process.workers, count(v, 1..=10_000))),
        "The most threads that work at once; they are started as they are needed. They carry \
         sessions from their first byte to the end of their login; a session that is logged in, \
         or waits for its client, needs none of them.",
    ),
    row(
        "client_wait",
        POSTERN,
        "time, 0 to 1d",
        Text("20ms"),
        Is(|d, v| put(&mut d.process.client_wait, time(v, UP_TO_A_DAY))),
        "How long a worker waits in place for its client before the session sleeps and the \
         worker turns to another one. With 1h, and hibernate_timeout = off, everything blocks in \
         place, which is how one steps through a session in a debugger.",
    ),
    row(
        "send_timeout",
        POSTERN,
        TIME,
        Text("5s"),
        Is(|d, v| put(&mut d.process.send_timeout, time(v, POSITIVE))),
        "A client that does not take what it is told before its login is given up after that \
         long.",
    ),
    row(
        "accept_queue",
        POSTERN,
        "number, 1 to 65535",
        Unset("none"),
        Is(|_, v| Ok(count(v, 1..=65_535_u32).map(drop)?)),
        "No longer needed: a connection waits for a worker as long as max_sessions has room for \
         it. Without effect, and accepted with a warning.",
    )
    .example("512"),
    row(
        "max_sessions",
        POSTERN,
        "number, 1 to 1000000",
        Text("4096"),
        Is(|d, v| put(&mut d.process.max_sessions, count(v, 1..=1_000_000))),
        "Sessions from accept to close, logged in or not. Above it the longest here of those that \
         wait before their login, from the address that has most of them, makes room for a \
         newcomer; where everybody is logged in or at work, the newcomer is told that the server \
         is busy.",
    ),
    row(
        "max_prelogin_per_ip",
        POSTERN,
        "number, from 1 | off",
        Text("256"),
        Is(|d, v| {
            put(
                &mut d.process.max_prelogin_per_ip,
                count_or_off(v, 1..=1_000_000),
            )
        }),
        "Sessions of one client address (IPv6: of one /64) that may be before their login at the \
         same time. When there are more, those that have been silent for a second are told that \
         the server is busy. off is no limit.",
    ),
    row(
        "deny",
        POSTERN,
        "list of ADDR | ADDR/BITS | file",
        Unset("nobody"),
        Is(|d, v| {
            let (items, notes) = deny_items(v, &d.folder)?;
            d.process.deny.extend(items);
            d.warnings.extend(notes);
            Ok(())
        }),
        "Clients that are not let in: their connections are closed at once, and nothing is said to them. \
         A file has one address or range a line, remarks behind #, and 16 MiB at most; it is read again \
         when it changes, and one with a mistake leaves the old one in use. Who is logged in already \
         stays; postern ban ends sessions too. Behind a PROXY header it is the client who counts: a \
         server's peers in set_real_ip_from are never kept out for an address of their own.",
    )
    .repeatable()
    .example("192.0.2.0/24 /etc/postern/deny.list"),
    row(
        "limits_store",
        POSTERN,
        "redis://[USER:PASSWORD@]HOST[:PORT][/DB] | rediss://… | unix:/path",
        Unset("none: each process for itself"),
        Is(|d, v| {
            d.process.limits_store = Some(store_url(v, &d.folder)?);
            Ok(())
        }),
        "A Redis or Valkey in which several nodes share counts of failed logins, sessions per user and bans. \
         rediss is TLS; redis+unix://USER:PASSWORD@/path is a Unix socket with a login, ?db=N behind a \
         path the database; what is special in a password is written as %XX. valkey is the same as redis. A question waits 50 ms for a free connection and \
         75 ms for its answer. Without one \
          the store counts as gone for all of the process at once, says so, and is looked for about once a second; \
         meanwhile each node goes on with its own counts. Nobody is refused because of it.",
    )
    .example("redis://:secret@10.0.0.5"),
    row(
        "limits_store_trusted_certificate",
        POSTERN,
        FILE,
        Unset("the system's store"),
        Is(|d, v| put_file(d, v, |d| &mut d.process.limits_store_trusted_certificate)),
        "Certificates of the issuers that are trusted at a limits_store with rediss. The name in its URL must \
         stand in its certificate.",
    )
    .example("/etc/postern/store-ca.pem"),
    row(
        "shutdown_timeout",
        POSTERN,
        TIME,
        Text("30s"),
        Is(|d, v| put(&mut d.process.shutdown_timeout, time(v, FROM_ZERO))),
        "How long running sessions may go on after a graceful stop (signal QUIT).",
    ),
    row(
        "reload_timeout",
        POSTERN,
        "time | off",
        Text("off"),
        Is(|d, v| put(&mut d.process.reload_timeout, time_or_off(v, POSITIVE))),
        "Sessions begun before a reload (signal HUP) are closed that long after it. With off they \
         may go on for ever, with the settings they began with.",
    ),
    row(
        "user",
        POSTERN,
        WORD,
        Unset("kept"),
        Is(|d, v| put(&mut d.process.user, account(v).map(Some))),
        "User to become once the ports are bound. Without effect unless started as root. A small \
         second process, the keeper, stays root and opens for this user what the configuration names: \
         renewed keys, maps, files of users and of deny, the configuration itself at HUP, logs at USR1, ports below 1024. It \
         refuses files in folders that the user can write to, or below such folders: a link could \
         stand in their place. check warns of files that neither can open.",
    )
    .example("nobody"),
    row(
        "group",
        POSTERN,
        WORD,
        Unset("the user's own"),
        Is(|d, v| put(&mut d.process.group, account(v).map(Some))),
        "Group to become once the ports are bound. Without effect unless started as root.",
    )
    .example("nogroup"),
    row(
        "pid",
        POSTERN,
        FILE,
        Unset("none"),
        Is(|d, v| {
            let file = path(v, &d.folder);
            put(&mut d.process.pid, file.map(Some))
        }),
        "File that gets the number of the process.",
    )
    .example("/run/postern.pid"),
    row(
        "landlock",
        POSTERN,
        SWITCH,
        Text("on"),
        Is(|d, v| put(&mut d.process.landlock, flag(v))),
        "Whether the process confines itself, for good, where the kernel has Landlock (Linux 5.13): it \
         reads below /etc, /usr, /opt, /srv, /run, /var/lib and the folders of all files that are named \
         here at the start, writes logs below /var/log and the folders of those named here, makes Unix \
         sockets below /run and the folders of those named here, and starts no program. A reload that \
         names a file elsewhere fails and says so; as root with user, the keeper opens it. A change takes \
         effect at the next start.",
    ),
    row(
        "control",
        POSTERN,
        "file | off",
        Unset("/run/postern/control where that folder exists, otherwise off"),
        Is(|d, v| put(&mut d.process.control, control(v, &d.folder))),
        "Unix socket for postern status, sessions, kick, ban, unban, bans, reload, stop, drain, log-level \
         and rawlog. It is made before root's rights are given up; one that is new at a reload is made by \
         the user, who must be able to write to its folder.",
    )
    .example("/run/postern/control"),
    row(
        "control_group",
        POSTERN,
        WORD,
        Unset("none"),
        Is(|d, v| put(&mut d.process.control_group, account(v).map(Some))),
        "Group whose members may use the control socket, besides the user and root. Without root's \
         rights, and at a reload, it has to be one that the process is a member of.",
    )
    .example("adm"),
    row(
        "status",
        POSTERN,
        "off | PORT | ADDR:PORT",
        Text("off"),
        Is(|d, v| {
            d.process.status = status(v, d.lookup)?;
            Ok(())
        }),
        "Where /metrics (for Prometheus), /healthz, /sessions (JSON) and / (a page for people, in \
         which sessions can be ended) are answered over HTTP. A port alone means this machine, \
         127.0.0.1. The page shows logins and client addresses, and there is no password: with \
         another address let a firewall choose who may read it. Sessions are ended from this \
         machine only.",
    )
    .example("9180"),
    // Where servers are, and who they are.
    row(
        "listen",
        SERVER,
        "ADDR:PORT | *:PORT | PORT | [v6]:PORT | HOST:PORT | ADDR:FROM-TO | unix:/path, then \
         flags: ssl, proxy_protocol, backlog=N, rcvbuf=SIZE, sndbuf=SIZE, ipv6only=on|off, \
         so_keepalive=on|off|[IDLE]:[INTVL]:[CNT], bind",
        Required,
        Is(|d, v| {
            let listeners = listen(v, &d.folder, d.lookup, &mut d.warnings)?;
            Ok(d.add_listeners(listeners)?)
        }),
        "Where the server listens. A port alone means every IPv4 address; [::]:PORT means every \
         IPv6 address and, unless ipv6only=off, no IPv4 address. With ssl, TLS is spoken from the \
         first byte. With proxy_protocol each connection must begin with a PROXY header.",
    )
    .repeatable(),
    row(
        "protocol",
        SERVER,
        "",
        Unset("from the port: 143 and 993 imap, 110 and 995 pop3, 25, 465 and 587 smtp"),
        Is(|d, v| {
            let words = Protocol::ALL.map(|protocol| (protocol.name(), protocol));
            put(&mut d.protocol, one_of(v, &words).map(Some))
        }),
        "What is spoken on the listeners.",
    )
    .words(|| Protocol::ALL.map(Protocol::name).join(" | "))
    .example("imap"),
    row(
        "server_name",
        MAIL,
        "host name | [ADDRESS]",
        HostName,
        Is(|d, v| put(&mut d.server.server_name, server_name(v))),
        "Name of this machine in the SMTP greeting, in EHLO to the backend and in the salts of \
         APOP and CRAM-MD5.",
    )
    .example("mail.example.org"),
    // Limits of the dialogue before login.
    row(
        "timeout",
        MAIL,
        TIME,
        Text("60s"),
        Is(|d, v| put(&mut d.server.timeout, time(v, POSITIVE))),
        "How long a client may take from its connection, or its last failed login, to its login \
         command; and again, how long the whole login to the backend may take.",
    ),
    row(
        "max_errors",
        MAIL,
        "number, from 1",
        Text("5"),
        Is(|d, v| put(&mut d.server.max_errors, count(v, 1..=1_000_000))),
        "Lines that make no sense before a session is closed.",
    ),
    row(
        "max_commands",
        MAIL,
        "number, from 1",
        Text("1000"),
        Is(|d, v| put(&mut d.server.max_commands, count(v, 1..=1_000_000))),
        "Commands before login, sensible ones included, before a session is closed.",
    ),
    // Names.
    row(
        "resolver",
        MAIL,
        "off | system | ADDR[:PORT] … [valid=TIME] [ipv4=on|off] [ipv6=on|off]",
        Text("off"),
        Is(|d, v| put(&mut d.server.resolver, resolver(v))),
        "DNS servers that are asked for the name of an SMTP client, and for the names of backends \
         and auth servers. With off, clients have no name, and other names are found as the \
         system does it.",
    ),
    row(
        "resolver_timeout",
        MAIL,
        TIME,
        Text("30s"),
        Is(|d, v| put(&mut d.server.resolver_timeout, time(v, POSITIVE))),
        "How long each look-up may take.",
    ),
    // Who decides about logins.
    row(
        "auth",
        MAIL,
        "http | file | passthrough",
        Unset(
            "http where auth_http is set, file where auth_file is, otherwise passthrough if there is \
             a [backend NAME]",
        ),
        Is(set_auth),
        "Who decides about logins: with http the auth server of auth_http; with file the users \
         of auth_file; with passthrough the backend that [routes] gives the login, which is \
         tried with the client's own credentials.",
    )
    .example("passthrough"),
    row(
        "auth_http",
        MAIL,
        "http://HOST[:PORT]/URI | HOST[:PORT]/URI | unix:/path:/uri | https://HOST[:PORT]/URI",
        Unset("none; needed with auth = http"),
        Is(|d, v| {
            let url = http_url(v, &d.folder)?;
            d.server.auth_http.push(url);
            Ok(())
        }),
        "The auth server, asked with each login who the user is and which backend holds the \
         mailbox. Several are tried in order. Port 80 (https: 443) and path / if left out.",
    )
    .repeatable()
    .example("http://127.0.0.1:9000/auth"),
    row(
        "auth_http_timeout",
        MAIL,
        TIME,
        Text("60s"),
        Is(|d, v| put(&mut d.server.auth_http_timeout, time(v, POSITIVE))),
        "How long an auth server may take to answer.",
    ),
    row(
        "auth_http_keepalive",
        MAIL,
        "number, 0 to 1000",
        Text("0"),
        Is(|d, v| put(&mut d.server.auth_http_keepalive, count(v, 0..=1000))),
        "How many idle connections to one auth server are kept for the next logins, each for a \
         second. With 0 each login asks on a connection of its own. More only for a server that \
         serves as many connections at once, and never sends anything behind the one answer to \
         each request: such bytes would decide about somebody else's login.",
    ),
    row(
        "auth_http_header",
        MAIL,
        "NAME VALUE",
        Unset("none"),
        Is(|d, v| {
            let header = header(v)?;
            d.server.auth_http_header.push(header);
            Ok(())
        }),
        "A header added to each request to the auth server, such as a shared key.",
    )
    .repeatable()
    .example("X-Auth-Key \"a shared secret\""),
    row(
        "auth_http_pass_client_cert",
        MAIL,
        SWITCH,
        Text("off"),
        Is(|d, v| put(&mut d.server.auth_http_pass_client_cert, flag(v))),
        "Sends the client's certificate to the auth server as Auth-SSL-Cert.",
    ),
    row(
        "auth_http_ssl_verify",
        MAIL,
        SWITCH,
        Text("on"),
        Is(|d, v| put(&mut d.server.auth_http_tls.proxy_ssl_verify, flag(v))),
        "Whether the certificate of an https:// auth server must come from a trusted issuer, be \
         valid and have the right name. With off, anybody between here and there can read \
         along, unless auth_http_ssl_fingerprint is set.",
    ),
    row(
        "auth_http_ssl_trusted_certificate",
        MAIL,
        FILE,
        Unset("the system's certificates"),
        Is(|d, v| {
            put_file(d, v, |d| {
                &mut d.server.auth_http_tls.proxy_ssl_trusted_certificate
            })
        }),
        "PEM file with the issuers that the certificate of an https:// auth server must come \
         from.",
    )
    .example("/etc/ssl/certs/office-ca.pem"),
    row(
        "auth_http_ssl_name",
        MAIL,
        WORD,
        Unset("the host of the URL"),
        Is(|d, v| {
            put(
                &mut d.server.auth_http_tls.proxy_ssl_name,
                peer_name(v).map(Some),
            )
        }),
        "Name that the certificate of an https:// auth server must have, and that is asked for \
         in the handshake (SNI).",
    )
    .example("auth.example.org"),
    row(
        "auth_http_ssl_certificate",
        MAIL,
        FILE,
        Unset("none"),
        Is(|d, v| put_file(d, v, |d| &mut d.server.auth_http_tls.proxy_ssl_certificate)),
        "PEM file with our own certificate and its chain, shown to an https:// auth server that \
         asks for one.",
    )
    .example("/etc/postern/client.pem"),
    row(
        "auth_http_ssl_certificate_key",
        MAIL,
        FILE,
        Unset("none"),
        Is(|d, v| {
            put_file(d, v, |d| {
                &mut d.server.auth_http_tls.proxy_ssl_certificate_key
            })
        }),
        "PEM file with the key of auth_http_ssl_certificate.",
    )
    .example("/etc/postern/client.key"),
    row(
        "auth_http_ssl_password_file",
        MAIL,
        FILE,
        Unset("none"),
        Is(|d, v| {
            put_file(d, v, |d| {
                &mut d.server.auth_http_tls.proxy_ssl_password_file
            })
        }),
        "Passphrases for an encrypted auth_http_ssl_certificate_key, one a line, tried in \
         order.",
    )
    .example("/etc/postern/client.passphrases"),
    row(
        "auth_http_ssl_fingerprint",
        MAIL,
        "SHA-256 in hexadecimal, colons allowed",
        Unset("any certificate"),
        Is(|d, v| {
            add(
                &mut d.server.auth_http_tls.proxy_ssl_fingerprint,
                fingerprint(v),
            )
        }),
        "The certificate of an https:// auth server must be one of these, beside what \
         auth_http_ssl_verify demands; with auth_http_ssl_verify off this alone counts. \
         openssl x509 -noout -fingerprint -sha256 -in FILE prints it.",
    )
    .repeatable()
    .example("5eff56a2af158825abe7a1c06b2a8e12708fd3b3e729419d0c64f0527d391bac"),
    row(
        "auth_http_ssl_protocols",
        MAIL,
        "list of TLSv1, TLSv1.1, TLSv1.2, TLSv1.3",
        Implied("TLSv1.2 TLSv1.3"),
        Is(|d, v| {
            put(
                &mut d.server.auth_http_tls.proxy_ssl_protocols,
                protocols(v),
            )
        }),
        "Versions of TLS that may be spoken with an https:// auth server. TLSv1 and TLSv1.1 \
         need tls_library = native and the system's consent.",
    ),
    row(
        "auth_file",
        MAIL,
        FILE,
        Unset("none; needed with auth = file"),
        Is(|d, v| put_file(d, v, |d| &mut d.server.auth_file)),
        "The users, one a line, as Dovecot's passwd-file has them: LOGIN:{SCHEME}HASH, or with \
         fields behind it LOGIN:{SCHEME}HASH:KEY=VALUE KEY=VALUE, or behind five more colons. \
         Schemes: ARGON2ID, ARGON2I, BLF-CRYPT, SHA512-CRYPT, SHA256-CRYPT, CRYPT, SSHA512, \
         SSHA256, PLAIN, also with .B64 or .HEX, and what begins with $argon2id$, $2y$, $6$, $5$. \
         Fields: backend (of which name, in the place of [routes]), user and pass (login and \
         password towards the backend), allow_nets (addresses, ranges or local, with commas), \
         nologin. The case of a login does not matter; one without a domain is also looked for \
         with login_domain. CRAM-MD5 and APOP need PLAIN. It is read again when it changes; one \
         with a mistake is not taken. postern passwd writes it.",
    )
    .example("/etc/postern/users"),
    row(
        "auth_cache",
        MAIL,
        "time of at most a day | off",
        Text("off"),
        Is(|d, v| put(&mut d.server.auth_cache, time_or_off(v, UP_TO_A_DAY_FROM_A_SECOND))),
        "How long a login that may pass is remembered, so that the auth server is not asked, or \
         the hash not calculated, for each connection of a mail program. Remembered is a keyed \
         hash of login, password, method and client address, for 16384 logins of a server at \
         most. A login that the backend refuses is forgotten, and all are when auth_file or a map \
         changes, and at a reload. What an auth server no longer grants goes on for so long.",
    )
    .example("1m"),
    row(
        "login_domain",
        MAIL,
        "domain",
        Unset("none"),
        Is(|d, v| put(&mut d.server.login_domain, domain(v).map(Some))),
        "Domain that is added to a login without one before its route is looked for. Only with \
         auth = passthrough or file.",
    )
    .example("example.org"),
    row(
        "login_domain_pass",
        MAIL,
        SWITCH,
        Text("off"),
        Is(|d, v| put(&mut d.server.login_domain_pass, flag(v))),
        "Whether the domain added by login_domain is part of the login to the backend too.",
    ),
    row(
        "strip_domain",
        MAIL,
        SWITCH,
        Text("off"),
        Is(|d, v| put(&mut d.server.strip_domain, flag(v))),
        "Whether a login loses its domain before it goes to the backend. Only with auth = \
         passthrough or file.",
    ),
    // Limits of clients and users.
    row(
        "auth_penalty_free",
        MAIL,
        "number, 0 to 1000",
        Text("5"),
        Is(|d, v| put(&mut d.server.auth_penalty_free, count(v, 0..=1000))),
        "Failed logins of one client address (IPv6: of one /64) that are answered at once. The next one \
         is answered a second later, and each further one twice as late, up to auth_penalty_max. One \
         is forgotten every five minutes, and an hour after the last one none is answered late. The same \
         wrong password for the same login counts once; a login that succeeds forgives nothing. An \
         address that has failed has at most 20 logins at a time that are being checked or not answered \
         yet; further ones wait, except those of users who have logged in from there before.",
    ),
    row(
        "auth_penalty_max",
        MAIL,
        "time, 1s to 5m | off",
        Text("15s"),
        Is(|d, v| put(&mut d.server.auth_penalty_max, time_or_off(v, PENALTY))),
        "The longest that the answer to a failed login is held back; timeout does not shorten it. off: failed \
         logins cost nothing. Clients of Unix sockets have no address and are never held back.",
    ),
    row(
        "auth_penalty_exempt",
        MAIL,
        "ADDR | ADDR/BITS",
        Unset("nobody"),
        Is(|d, v| {
            let (net, note) = range(v)?;
            d.server.auth_penalty_exempt.push(net);
            d.warnings.extend(note);
            Ok(())
        }),
        "Clients whose failed logins cost nothing: webmail, which logs in for many from one address.",
    )
    .repeatable()
    .example("192.0.2.25"),
    row(
        "auth_failures_per_user",
        MAIL,
        "number, 0 to 1000 | off",
        Text("off"),
        Is(|d, v| put(&mut d.server.auth_failures_per_user, count_or_off(v, 0..=1000))),
        "Failed logins of one user, from any addresses where it has not logged in before, that are answered \
         at once; further ones are held back as those of an address are, whether there is such a user or \
         not. Slows those who guess from many addresses. off: only addresses count, since whoever guesses \
         at a user without end would slow that user's first login from a new address too.",
    ),
    row(
        "max_sessions_per_user",
        MAIL,
        "number, from 1 | off",
        Text("off"),
        Is(|d, v| {
            put(
                &mut d.server.max_sessions_per_user,
                count_or_off(v, 1..=1_000_000),
            )
        }),
        "Sessions that one user may have at a time, with each protocol. One more is told so once its \
         password has turned out right, and closed. Sessions are counted while a limit is set.",
    )
    .example("50"),
    row(
        "max_sessions_per_user_per_ip",
        MAIL,
        "number, from 1 | off",
        Text("off"),
        Is(|d, v| {
            put(
                &mut d.server.max_sessions_per_user_per_ip,
                count_or_off(v, 1..=1_000_000),
            )
        }),
        "The same from one client address (IPv6: from one /64).",
    )
    .example("20"),
    // IMAP.
    row(
        "imap_auth",
        MAIL,
        "list of",
        Text("plain"),
        Is(|d, v| put_mechanisms(d, v, Imap)),
        "Ways to log in that IMAP clients are offered. PLAIN and LOGIN are always understood.",
    )
    .only(Imap)
    .words(|| mechanism_words(Imap).join(", ")),
    row(
        "imap_capabilities",
        MAIL,
        "list | auto",
        OrAuto("IMAP4 IMAP4rev1 UIDPLUS"),
        Is(|d, v| {
            put(
                &mut d.server.of_protocol[Imap].capabilities,
                not_empty(capabilities(v)),
            )
        }),
        "What IMAP clients are told before login: what the backends can do. With auto they are \
         asked. Methods of login and STARTTLS are added.",
    )
    .only(Imap),
    row(
        "imap_client_buffer",
        MAIL,
        SIZE,
        Text("16k"),
        Is(|d, v| {
            put(
                &mut d.server.of_protocol[Imap].client_buffer,
                size(v, CLIENT_BUFFER),
            )
        }),
        "Longest IMAP command before login, literals included; 1k to 1m.",
    )
    .only(Imap),
    // POP3.
    row(
        "pop3_auth",
        MAIL,
        "list of",
        Text("plain"),
        Is(|d, v| put_mechanisms(d, v, Pop3)),
        "Ways to log in that POP3 clients are offered. USER and PASS are always understood.",
    )
    .only(Pop3)
    .words(|| mechanism_words(Pop3).join(", ")),
    row(
        "pop3_capabilities",
        MAIL,
        "list | auto",
        OrAuto("TOP USER UIDL"),
        Is(|d, v| {
            put(
                &mut d.server.of_protocol[Pop3].capabilities,
                capabilities(v),
            )
        }),
        "What POP3 clients are told in the answer to CAPA. With auto the backends are asked. \
         Methods of login and STLS are added.",
    )
    .only(Pop3),
    row(
        "pop3_client_buffer",
        MAIL,
        SIZE,
        Text("16k"),
        Is(|d, v| {
            put(
                &mut d.server.of_protocol[Pop3].client_buffer,
                size(v, CLIENT_BUFFER),
            )
        }),
        "Longest POP3 command line before login; 1k to 1m.",
    )
    .only(Pop3),
    // SMTP.
    row(
        "smtp_auth",
        MAIL,
        "list of",
        Text("plain login"),
        Is(|d, v| put_mechanisms(d, v, Smtp)),
        "Ways to log in that SMTP clients are offered. With none, mail is taken without a login \
         too, if the auth server agrees.",
    )
    .only(Smtp)
    .words(|| mechanism_words(Smtp).join(", ")),
    row(
        "smtp_capabilities",
        MAIL,
        "list | auto",
        OrAuto(""),
        Is(|d, v| {
            put(
                &mut d.server.of_protocol[Smtp].capabilities,
                capabilities(v),
            )
        }),
        "Further lines of the answer to EHLO. List only what every backend can do; with auto they \
         are asked.",
    )
    .only(Smtp)
    .example("\"SIZE 10485760\" 8BITMIME"),
    row(
        "smtp_client_buffer",
        MAIL,
        SIZE,
        Text("16k"),
        Is(|d, v| {
            put(
                &mut d.server.of_protocol[Smtp].client_buffer,
                size(v, CLIENT_BUFFER),
            )
        }),
        "Longest SMTP command line before login; 1k to 1m.",
    )
    .only(Smtp),
    row(
        "smtp_greeting_delay",
        MAIL,
        TIME,
        Text("0"),
        Is(|d, v| put(&mut d.server.smtp_greeting_delay, time(v, FROM_ZERO))),
        "Holds the SMTP greeting back. A client that talks before it is refused, as most senders \
         of spam are.",
    )
    .only(Smtp),
    // Towards the backend.
    row(
        "proxy_buffer",
        MAIL,
        SIZE,
        Unset("chosen by Postern"),
        Is(|d, v| put(&mut d.server.proxy_buffer, size(v, RELAY_BUFFER).map(Some))),
        "Size of a buffer between client and backend, one per direction, held only while data \
         flows; 1k to 16m. Where neither side has TLS, much data at once goes through a pipe of the \
         kernel instead, of 256k.",
    )
    .example("16k"),
    row(
        "proxy_timeout",
        MAIL,
        TIME,
        Text("24h"),
        Is(|d, v| put(&mut d.server.proxy_timeout, time(v, POSITIVE))),
        "How long a logged-in session may be silent in both directions.",
    ),
    row(
        "hibernate_timeout",
        MAIL,
        "time | off",
        Text("5s"),
        Is(|d, v| put(&mut d.server.hibernate_timeout, time_or_off(v, POSITIVE))),
        "A logged-in session that is silent in both directions for that long gives its threads \
         back until one side speaks again.",
    ),
    row(
        "proxy_pass_error_message",
        MAIL,
        SWITCH,
        Text("off"),
        Is(|d, v| put(&mut d.server.proxy_pass_error_message, flag(v))),
        "Hands the client what the backend said when it refused the login, instead of a general \
         error, with auth = passthrough too: strangers may learn from it whether a user exists.",
    ),
    row(
        "proxy_protocol",
        TO_BACKEND,
        "on | off | v1 | v2",
        Text("off"),
        Is(|d, v| {
            let words = [
                ("on", ProxyProtocol::V1),
                ("off", ProxyProtocol::Off),
                ("v1", ProxyProtocol::V1),
                ("v2", ProxyProtocol::V2),
            ];
            put(&mut d.server.proxy_protocol, one_of(v, &words))
        }),
        "Sends a PROXY header to the backend, which must expect one; on is version 1.",
    ),
    row(
        "proxy_smtp_auth",
        MAIL,
        SWITCH,
        Text("off"),
        Is(|d, v| put(&mut d.server.proxy_smtp_auth, flag(v))),
        "Logs in to the SMTP backend with AUTH and the user's password. With auth = passthrough \
         that is always done, with auth = file unless it is off here.",
    )
    .only(Smtp),
    row(
        "master_user",
        TO_BACKEND,
        WORD,
        Unset("none: backends are entered by the user, with the user's password"),
        Is(|d, v| Ok(d.master.set_user(v)?)),
        "Enters backends by this master user in the name of the user, once that one has been found \
         good: then no password of the user's is needed. SASL PLAIN says so, with the user as \
         authorization identity; SMTP needs proxy_smtp_auth. An Auth-Pass of the auth server's, or a \
         pass= of auth_file, counts more. Not for backends of auth = passthrough, which check the user's password.",
    )
    .example("postern"),
    row(
        "master_password",
        TO_BACKEND,
        "password",
        Unset("none"),
        Is(|d, v| Ok(d.master.set_password(v)?)),
        "The password of master_user. Who has it reads everybody's mail: let nobody else read this \
         file.",
    )
    .example("a-long-random-password"),
    row(
        "master_separator",
        TO_BACKEND,
        "punctuation mark",
        Unset("none: SASL PLAIN says for whom the login is"),
        Is(|d, v| Ok(d.master.set_separator(v)?)),
        "Says for whom the login is in the login itself: the user, this character, master_user \
         (Dovecot: auth_master_user_separator). A user with it in the name is refused.",
    )
    .example("*"),
    row(
        "xclient",
        TO_BACKEND,
        "on | off | auto | full",
        InBackend("auto", "on"),
        Is(|d, v| {
            let words = [
                ("on", Xclient::On),
                ("off", Xclient::Off),
                ("auto", Xclient::Auto),
                ("full", Xclient::Full),
            ];
            put(&mut d.server.xclient, one_of(v, &words))
        }),
        "Tells the SMTP backend about the client with XCLIENT. The backend must allow it (Postfix: \
         smtpd_authorized_xclient_hosts); auto sends it only where it is offered, full sends \
         every attribute that is offered.",
    )
    .only(Smtp),
    row(
        "send_client_id",
        TO_BACKEND,
        "on | off | auto",
        Text("auto"),
        Is(|d, v| {
            let words = [
                ("on", SendClientId::On),
                ("off", SendClientId::Off),
                ("auto", SendClientId::Auto),
            ];
            put(&mut d.server.send_client_id, one_of(v, &words))
        }),
        "Tells the IMAP backend about the client with ID (x-originating-ip, x-session-id and their \
         like, and what the client's own ID says), the POP3 backend with XCLIENT, before the login. \
         Dovecot believes it from its login_trusted_networks. auto sends it only where it is \
         offered, on always; a host that does not take it is logged in to without.",
    ),
    // The PROXY protocol from clients.
    row(
        "set_real_ip_from",
        MAIL,
        "ADDR | ADDR/BITS | unix:",
        Unset("nobody"),
        Is(|d, v| {
            let (peer, note) = trusted_peer(v)?;
            d.server.set_real_ip_from.push(peer);
            d.warnings.extend(note);
            Ok(())
        }),
        "Peers whose PROXY header says who the client is; needs listen … proxy_protocol.",
    )
    .repeatable()
    .example("10.0.0.0/8"),
    // The log.
    row(
        "error_log",
        LOG,
        "stderr | FILE | syslog:server=ADDR[:PORT]|unix:PATH[,facility=F][,tag=T][,severity=S]\
         [,nohostname], then [LEVEL] [format=text|json] [filter=tag:NAME]",
        OfProcess("stderr info"),
        Is(|d, v| {
            let target = error_log(v, &d.folder)?;
            d.error_log.push(target);
            Ok(())
        }),
        "Where log lines go. LEVEL and everything above it: debug, info, notice, warn, error, \
         crit, alert, emerg; error if left out. Servers without their own use that of [mail], \
         else that of [postern].",
    )
    .repeatable(),
    row(
        "error_log_user_tag",
        LOG,
        LIST,
        Unset("none"),
        Is(|d, v| put(&mut d.error_log_user_tag, tags(v))),
        "Marks log lines, for filter=tag:NAME of error_log.",
    )
    .example("office"),
    row(
        "log_format",
        POSTERN,
        "angie | nginx",
        Text("angie"),
        Is(|d, v| {
            let words = [("angie", TextLayout::Angie), ("nginx", TextLayout::Nginx)];
            put(&mut d.process.log_format, one_of(v, &words))
        }),
        "How lines of text name their session: client: \"192.0.2.7:51512\", server: \"…\", as \
         Angie 1.12 writes it, or client: 192.0.2.7, server: …, as nginx and older Angie do, for \
         ban rules that were written for these. Behind a balancer angie has the peer: too.",
    ),
    // TLS towards clients.
    row(
        "tls_library",
        TO_BACKEND,
        "rustls | native",
        Text("rustls"),
        Is(set_tls_library),
        "The library that speaks TLS, towards clients, backends and auth servers. native is the \
         operating system's, for devices that only speak what rustls no longer does; towards \
         clients it reaches TLS 1.2 and has one certificate, no client certificates and no \
         choice of ciphers.",
    ),
    row(
        "plain_login_answer",
        MAIL,
        "said | bad",
        Text("said"),
        Is(|d, v| {
            let words = [
                ("said", PlainLoginAnswer::Said),
                ("bad", PlainLoginAnswer::Bad),
            ];
            put(&mut d.server.plain_login_answer, one_of(v, &words))
        }),
        "With starttls = only, what a login before TLS is answered: that it needs TLS first, with \
         a line in the log, or as a bad command.",
    ),
    row(
        "starttls",
        MAIL,
        "off | on | only",
        Text("off"),
        Is(|d, v| {
            let words = [
                ("off", Starttls::Off),
                ("on", Starttls::On),
                ("only", Starttls::Only),
            ];
            put(&mut d.server.starttls, one_of(v, &words))
        }),
        "Whether clients may change to TLS on a plain connection; with only they must, before \
         they log in. Needs ssl_certificate.",
    ),
    row(
        "ssl_certificate",
        MAIL,
        FILE,
        Unset("none; needed with listen … ssl and starttls"),
        Is(|d, v| add_file(d, v, |d| &mut d.server.tls.ssl_certificate)),
        "PEM file with the server's certificate, followed by its chain. Of several, the one is \
         used that fits the name the client asks for, then the one whose kind of key it takes. \
         A renewed file is used without a restart.",
    )
    .repeatable()
    .example("/etc/postern/mail.example.org.pem"),
    row(
        "ssl_certificate_key",
        MAIL,
        FILE,
        Unset("none; needed with ssl_certificate"),
        Is(|d, v| add_file(d, v, |d| &mut d.server.tls.ssl_certificate_key)),
        "PEM file with the key of the ssl_certificate in the same place of the order.",
    )
    .repeatable()
    .example("/etc/postern/mail.example.org.key"),
    row(
        "ssl_password_file",
        MAIL,
        FILE,
        Unset("none"),
        Is(|d, v| put_file(d, v, |d| &mut d.server.tls.ssl_password_file)),
        "Passphrases of encrypted keys, one a line, tried in order.",
    )
    .example("/etc/postern/passphrases"),
    row(
        "ssl_stapling_file",
        MAIL,
        FILE,
        Unset("none"),
        Is(|d, v| add_file(d, v, |d| &mut d.server.tls.ssl_stapling_file)),
        "OCSP response in DER that clients get with the certificate, read again when it changes; \
         several for several certificates. Whoever renews it fetches it too (openssl ocsp \
         -respout). Only with tls_library = rustls.",
    )
    .repeatable()
    .example("/etc/postern/ocsp.der"),
    row(
        "ssl_protocols",
        MAIL,
        "list of TLSv1, TLSv1.1, TLSv1.2, TLSv1.3",
        Implied("TLSv1.2 TLSv1.3"),
        Is(|d, v| put(&mut d.server.tls.ssl_protocols, protocols(v))),
        "Versions of TLS that clients may speak. TLSv1 and TLSv1.1 need tls_library = native \
         and the system's consent; native has no TLSv1.3 towards clients.",
    ),
    row(
        "ssl_ciphers",
        MAIL,
        "list of OpenSSL's names, separated by colons",
        Unset("the library's choice"),
        Is(|d, v| put(&mut d.server.tls.ssl_ciphers, openssl_list(v).map(Some))),
        "Ciphers that clients may use, as openssl ciphers takes them; names of TLS 1.3 ciphers \
         may stand there too. Only with tls_library = rustls.",
    )
    .example("HIGH:!aNULL:!MD5"),
    row(
        "ssl_ecdh_curve",
        MAIL,
        "auto | list of OpenSSL's names, separated by colons",
        Implied("auto"),
        Is(|d, v| put(&mut d.server.tls.ssl_ecdh_curve, curves(v))),
        "Groups for the key exchange. Only with tls_library = rustls.",
    ),
    row(
        "ssl_prefer_server_ciphers",
        MAIL,
        SWITCH,
        Implied("off"),
        Is(|d, v| {
            put(
                &mut d.server.tls.ssl_prefer_server_ciphers,
                flag(v).map(Some),
            )
        }),
        "Whether the server's order of ciphers counts more than the client's. native always \
         prefers its own.",
    ),
    row(
        "ssl_dhparam",
        MAIL,
        FILE,
        Unset("none"),
        Is(|d, v| put_file(d, v, |d| &mut d.server.tls.ssl_dhparam)),
        "Without effect, and accepted with a warning: keys are exchanged over elliptic curves.",
    )
    .example("/etc/postern/dhparam.pem"),
    row(
        "ssl_session_cache",
        MAIL,
        "none | off | builtin[:SESSIONS] | shared:NAME:SIZE",
        Implied("none"),
        Is(|d, v| {
            put(
                &mut d.server.tls.ssl_session_cache,
                session_cache(v).map(Some),
            )
        }),
        "Memory of TLS sessions, so that a client that comes back connects faster, without a \
         ticket too. Servers that give the same NAME share a cache. Only with tls_library = \
         rustls.",
    ),
    row(
        "ssl_session_tickets",
        MAIL,
        SWITCH,
        Implied("on"),
        Is(|d, v| put(&mut d.server.tls.ssl_session_tickets, flag(v).map(Some))),
        "Whether clients keep their TLS session themselves, in an encrypted ticket. native \
         always gives tickets.",
    ),
    row(
        "ssl_session_ticket_key",
        MAIL,
        FILE,
        Unset("made at start"),
        Is(|d, v| add_file(d, v, |d| &mut d.server.tls.ssl_session_ticket_key)),
        "File of 48 or 80 random bytes that encrypts tickets, for machines that share them \
         (openssl rand 80 > FILE). The first of several encrypts, all decrypt. Only with \
         tls_library = rustls.",
    )
    .repeatable()
    .example("/etc/postern/ticket.key"),
    row(
        "ssl_session_timeout",
        MAIL,
        TIME,
        Implied("5m"),
        Is(|d, v| {
            put(
                &mut d.server.tls.ssl_session_timeout,
                time(v, FROM_ZERO).map(Some),
            )
        }),
        "How long a TLS session can be taken up again. Only with tls_library = rustls.",
    ),
    row(
        "ssl_verify_client",
        MAIL,
        "off | on | optional | optional_no_ca",
        Text("off"),
        Is(|d, v| {
            let words = [
                ("off", VerifyClient::Off),
                ("on", VerifyClient::On),
                ("optional", VerifyClient::Optional),
                ("optional_no_ca", VerifyClient::OptionalNoCa),
            ];
            put(&mut d.server.tls.ssl_verify_client, one_of(v, &words))
        }),
        "Whether clients are asked for a certificate: on refuses a client without a good one, \
         optional one with a bad one; with optional_no_ca its issuer may be unknown. The auth \
         server is told the result. Only with tls_library = rustls.",
    ),
    row(
        "ssl_login_from",
        MAIL,
        "off | cn | email | san-email",
        Text("off"),
        Is(|d, v| {
            let words = [
                ("off", LoginFrom::Off),
                ("cn", LoginFrom::CommonName),
                ("email", LoginFrom::Email),
                ("san-email", LoginFrom::SanEmail),
            ];
            put(&mut d.server.tls.ssl_login_from, one_of(v, &words))
        }),
        "Whose login it is where a client leaves the proof to its certificate (external in imap_auth \
         and its like): the common name or the emailAddress of the subject, if there is exactly one, \
         or any email address among the alternative names. The certificate must have verified. An \
         empty login stands for the first name, another one is refused. With off the auth server \
         judges.",
    ),
    row(
        "ssl_client_certificate",
        MAIL,
        FILE,
        Unset("none"),
        Is(|d, v| put_file(d, v, |d| &mut d.server.tls.ssl_client_certificate)),
        "PEM file with the issuers that client certificates must come from; their names are \
         sent to clients.",
    )
    .example("/etc/postern/clients-ca.pem"),
    row(
        "ssl_trusted_certificate",
        MAIL,
        FILE,
        Unset("none"),
        Is(|d, v| put_file(d, v, |d| &mut d.server.tls.ssl_trusted_certificate)),
        "PEM file with further issuers that client certificates may come from; not sent to \
         clients.",
    )
    .example("/etc/postern/more-clients-ca.pem"),
    row(
        "ssl_verify_depth",
        MAIL,
        "number, 0 to 100",
        Implied("1"),
        Is(|d, v| {
            put(
                &mut d.server.tls.ssl_verify_depth,
                count(v, 0..=100).map(Some),
            )
        }),
        "How many certificates may stand between a client's and the trusted one.",
    ),
    row(
        "ssl_crl",
        MAIL,
        FILE,
        Unset("none"),
        Is(|d, v| put_file(d, v, |d| &mut d.server.tls.ssl_crl)),
        "PEM file with revoked client certificates: one list for each issuer of the chain.",
    )
    .example("/etc/postern/clients.crl"),
    row(
        "ssl_conf_command",
        MAIL,
        "NAME VALUE",
        Unset("none"),
        Is(|d, v| add(&mut d.server.tls.ssl_conf_command, conf_command(v))),
        "A setting of OpenSSL. Without effect, and accepted with a warning that names the \
         directive to use instead.",
    )
    .repeatable()
    .example("Options PrioritizeChaCha"),
    // TLS towards backends.
    row(
        "proxy_ssl",
        TO_BACKEND,
        "off | on | starttls",
        Text("off"),
        Is(|d, v| put(&mut d.server.proxy_ssl, one_of(v, &PROXY_SSL))),
        "Whether the connection to a backend is encrypted, from its start or after STARTTLS, \
         which it must then offer. The auth server may say otherwise with each login \
         (Auth-SSL-Backend).",
    ),
    row(
        "proxy_ssl_verify",
        TO_BACKEND,
        SWITCH,
        Text("on"),
        Is(|d, v| put(&mut d.server.proxy_tls.proxy_ssl_verify, flag(v))),
        "Whether the certificate of a backend must come from a trusted issuer, be valid and \
         have the right name. With off, anybody between here and there can read along, unless \
         proxy_ssl_fingerprint is set.",
    ),
    row(
        "proxy_ssl_trusted_certificate",
        TO_BACKEND,
        FILE,
        Unset("the system's certificates"),
        Is(|d, v| {
            put_file(d, v, |d| {
                &mut d.server.proxy_tls.proxy_ssl_trusted_certificate
            })
        }),
        "PEM file with the issuers that the certificate of a backend must come from.",
    )
    .example("/etc/ssl/certs/office-ca.pem"),
    row(
        "proxy_ssl_name",
        TO_BACKEND,
        WORD,
        Unset("the backend's host name"),
        Is(|d, v| {
            put(
                &mut d.server.proxy_tls.proxy_ssl_name,
                peer_name(v).map(Some),
            )
        }),
        "Name that the certificate of a backend must have, and that is asked for in the \
         handshake (SNI).",
    )
    .example("imap.example.org"),
    row(
        "proxy_ssl_certificate",
        TO_BACKEND,
        FILE,
        Unset("none"),
        Is(|d, v| put_file(d, v, |d| &mut d.server.proxy_tls.proxy_ssl_certificate)),
        "PEM file with our own certificate and its chain, shown to a backend that asks for one.",
    )
    .example("/etc/postern/client.pem"),
    row(
        "proxy_ssl_certificate_key",
        TO_BACKEND,
        FILE,
        Unset("none"),
        Is(|d, v| put_file(d, v, |d| &mut d.server.proxy_tls.proxy_ssl_certificate_key)),
        "PEM file with the key of proxy_ssl_certificate.",
    )
    .example("/etc/postern/client.key"),
    row(
        "proxy_ssl_password_file",
        TO_BACKEND,
        FILE,
        Unset("none"),
        Is(|d, v| put_file(d, v, |d| &mut d.server.proxy_tls.proxy_ssl_password_file)),
        "Passphrases for an encrypted proxy_ssl_certificate_key, one a line, tried in order.",
    )
    .example("/etc/postern/client.passphrases"),
    row(
        "proxy_ssl_fingerprint",
        TO_BACKEND,
        "SHA-256 in hexadecimal, colons allowed",
        Unset("any certificate"),
        Is(|d, v| {
            add(
                &mut d.server.proxy_tls.proxy_ssl_fingerprint,
                fingerprint(v),
            )
        }),
        "The certificate of a backend must be one of these, beside what proxy_ssl_verify \
         demands; with proxy_ssl_verify off this alone counts. openssl x509 -noout \
         -fingerprint -sha256 -in FILE prints it.",
    )
    .repeatable()
    .example("5eff56a2af158825abe7a1c06b2a8e12708fd3b3e729419d0c64f0527d391bac"),
    row(
        "proxy_ssl_protocols",
        TO_BACKEND,
        "list of TLSv1, TLSv1.1, TLSv1.2, TLSv1.3",
        Implied("TLSv1.2 TLSv1.3"),
        Is(|d, v| put(&mut d.server.proxy_tls.proxy_ssl_protocols, protocols(v))),
        "Versions of TLS that may be spoken with a backend. TLSv1 and TLSv1.1 need tls_library \
         = native and the system's consent.",
    ),
    row(
        "proxy_ssl_ciphers",
        TO_BACKEND,
        LIST,
        Unset("the library's"),
        NotYet,
        "Ciphers that may be used towards backends, in OpenSSL's spelling.",
    ),
    // Backends.
    row(
        "hosts",
        BACKEND,
        HOSTS,
        Unset("none: needed for each protocol that has no hosts of its own"),
        Is(|d, v| {
            let (hosts, twice) = backend::hosts(v)?;
            d.backend.hosts = hosts;
            d.warnings.extend(twice);
            Ok(())
        }),
        "The machines of this backend, each of which has all its mailboxes. A name with several \
         addresses is several machines. A PORT holds for every protocol.",
    )
    .example("imap1.example.org imap2.example.org"),
    row(
        "imap_hosts",
        BACKEND,
        HOSTS,
        Unset("those of hosts"),
        Is(|d, v| own_hosts(d, Imap, v)),
        "The machines that speak IMAP, where these are others.",
    )
    .example("imap.example.org"),
    row(
        "imap_proxy_ssl",
        BACKEND,
        "off | on | starttls",
        Unset("that of proxy_ssl"),
        Is(|d, v| put(&mut d.backend.own_ssl[Imap], one_of(v, &PROXY_SSL).map(Some))),
        "How IMAP is encrypted, where that is otherwise.",
    )
    .example("on"),
    row(
        "pop3_hosts",
        BACKEND,
        HOSTS,
        Unset("those of hosts"),
        Is(|d, v| own_hosts(d, Pop3, v)),
        "The machines that speak POP3, where these are others.",
    )
    .example("pop.example.org"),
    row(
        "pop3_proxy_ssl",
        BACKEND,
        "off | on | starttls",
        Unset("that of proxy_ssl"),
        Is(|d, v| put(&mut d.backend.own_ssl[Pop3], one_of(v, &PROXY_SSL).map(Some))),
        "How POP3 is encrypted, where that is otherwise.",
    )
    .example("on"),
    row(
        "smtp_hosts",
        BACKEND,
        HOSTS,
        Unset("those of hosts"),
        Is(|d, v| own_hosts(d, Smtp, v)),
        "The machines that speak SMTP, where these are others.",
    )
    .example("submission.example.org"),
    row(
        "smtp_proxy_ssl",
        BACKEND,
        "off | on | starttls",
        Unset("that of proxy_ssl"),
        Is(|d, v| put(&mut d.backend.own_ssl[Smtp], one_of(v, &PROXY_SSL).map(Some))),
        "How SMTP is encrypted, where that is otherwise.",
    )
    .example("starttls"),
    row(
        "imap_port",
        BACKEND,
        "port, 1 to 65535",
        Unset("993 with TLS from the start, otherwise 143"),
        Is(|d, v| put(&mut d.backend.ports[Imap], count(v, 1..=65_535).map(Some))),
        "Where hosts without a port of their own speak IMAP.",
    )
    .example("143"),
    row(
        "pop3_port",
        BACKEND,
        "port, 1 to 65535",
        Unset("995 with TLS from the start, otherwise 110"),
        Is(|d, v| put(&mut d.backend.ports[Pop3], count(v, 1..=65_535).map(Some))),
        "Where hosts without a port of their own speak POP3.",
    )
    .example("110"),
    row(
        "smtp_port",
        BACKEND,
        "port, 1 to 65535",
        Unset("465 with TLS from the start, otherwise 587, or 25 for servers whose smtp_auth has none"),
        Is(|d, v| put(&mut d.backend.ports[Smtp], count(v, 1..=65_535).map(Some))),
        "Where hosts without a port of their own speak SMTP.",
    )
    .example("587"),
    row(
        "auth_mechanism",
        BACKEND,
        "",
        Text("auto"),
        Is(|d, v| {
            let words = AuthMechanism::words();
            put(&mut d.backend.auth_mechanism, one_of(v, &words))
        }),
        "How to log in to the backend: auto takes what it offers and the client's credentials \
         fit; off uses no SASL, but IMAP LOGIN, POP3 USER and PASS, and no login for SMTP.",
    )
    .words(|| {
        AuthMechanism::words()
            .iter()
            .map(|(word, _)| *word)
            .collect::<Vec<_>>()
            .join(" | ")
    }),
    row(
        "balance",
        BACKEND,
        "failover | round_robin | hash",
        Text("failover"),
        Is(|d, v| {
            let words = [
                ("failover", Balance::Failover),
                ("round_robin", Balance::RoundRobin),
                ("hash", Balance::Hash),
            ];
            put(&mut d.backend.balance, one_of(v, &words))
        }),
        "Which of several hosts gets a session: the first that works, each in turn, or with hash one \
         chosen by the user's name, the same for all protocols and all nodes.",
    ),
    row(
        "connect_timeout",
        BACKEND,
        TIME,
        Text("10s"),
        Is(|d, v| put(&mut d.backend.connect_timeout, time(v, POSITIVE))),
        "How long one host may take to accept a connection before the next is tried, within \
         timeout.",
    ),
    row(
        "fail_timeout",
        BACKEND,
        TIME,
        Text("30s"),
        Is(|d, v| put(&mut d.backend.fail_timeout, time(v, FROM_ZERO))),
        "How long a host that refused a connection or took too long is tried last.",
    ),
    row(
        "health_check",
        BACKEND,
        "off | time, from 1s",
        Text("off"),
        Is(|d, v| put(&mut d.backend.health_check, time_or_off(v, FROM_A_SECOND))),
        "How often each host is tried without a client: connection, greeting, goodbye.",
    ),
    row(
        "route",
        ROUTES,
        "PATTERN BACKEND | PATTERN reject TEXT",
        Unset("none; a single backend takes everyone"),
        Is(|d, v| {
            let route = parse_route(v)?;
            d.add_route(RouteLine::Route(route));
            Ok(())
        }),
        "The backend of the logins that fit a pattern, or what they are told when they are \
         refused. PATTERN is user@domain, @domain, user or *, in any case. The first line that \
         fits, of route and map together, counts; a login that no line fits is refused.",
    )
    .repeatable()
    .example("@example.org office"),
    row(
        "map",
        ROUTES,
        FILE,
        Unset("none"),
        Is(|d, v| {
            let file = path(v, &d.folder)?;
            d.add_route(RouteLine::Map(file));
            Ok(())
        }),
        "A file whose lines have the form of route. It is read again when it changes; lines \
         that begin with # or ; are remarks.",
    )
    .repeatable()
    .example("/etc/postern/routes.map"),
];

/// The capabilities of a protocol as its row has them.
pub(super) fn capabilities_without_backends(protocol: Protocol) -> Capabilities {
    let name = protocol.record().capabilities_directive;
    let text = match find(name).map(|directive| directive.default) {
        Some(OrAuto(text)) => text,
        _ => "",
    };
    capabilities(text).unwrap_or(Capabilities::Fixed(Vec::new()))
}

/// The host name that `server_name` takes by default.
pub(super) fn host_name() -> String {
    let name = nix::unistd::gethostname().ok();
    let name = name.and_then(|name| name.into_string().ok());
    name.filter(|name| value::server_name(name).is_ok())
        .unwrap_or_else(|| "localhost".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_stands_once() {
        for (index, directive) in DIRECTIVES.iter().enumerate() {
            let twice = DIRECTIVES[index + 1..]
                .iter()
                .any(|d| d.name == directive.name);
            assert!(!twice, "{}", directive.name);
            assert!(!directive.sections.is_empty() && !directive.help.is_empty());
            assert!(directive.help.ends_with('.'), "{}", directive.name);
        }
    }

    #[test]
    fn defaults_and_examples_pass_their_setters() {
        for directive in DIRECTIVES {
            let Setter::Is(set) = directive.setter else {
                continue;
            };
            let mut draft = Draft::for_tests();
            if let Text(text)
            | OfProcess(text)
            | Implied(text)
            | InBackend(text, _)
            | OrAuto(text) = directive.default
            {
                assert_eq!(set(&mut draft, text), Ok(()), "{}", directive.name);
            }
            if !directive.example.is_empty() {
                assert_eq!(
                    set(&mut draft, directive.example),
                    Ok(()),
                    "{}",
                    directive.name
                );
            }
            assert_eq!(draft.warnings, Vec::<String>::new(), "{}", directive.name);
        }
    }

    #[test]
    fn shapes_follow_from_what_a_value_looks_like() {
        let shape = |name| known_directive(name).map(KnownDirective::shape);
        assert_eq!(
            shape("proxy_ssl_trusted_certificate"),
            Some(ValueShape::File)
        );
        assert_eq!(shape("hibernate_timeout"), Some(ValueShape::Time));
        assert_eq!(shape("imap_capabilities"), Some(ValueShape::List));
        assert_eq!(shape("error_log_user_tag"), Some(ValueShape::List));
        for word in [
            "protocol",
            "proxy_ssl",
            "proxy_ssl_verify",
            "ssl_verify_client",
        ] {
            assert_eq!(shape(word), Some(ValueShape::Word), "{word}");
        }
        for text in [
            "pop3_client_buffer",
            "ssl_ciphers",
            "set_real_ip_from",
            "proxy_ssl_name",
        ] {
            assert_eq!(shape(text), Some(ValueShape::Text), "{text}");
        }
        assert_eq!(shape("nowhere"), None);
    }

    #[test]
    fn what_is_known_says_where_it_stands() {
        let known = |name| known_directive(name).expect(name);
        assert!(known("listen").is_of_mail() && !known("listen").is_of_process());
        assert!(known("error_log").is_of_mail() && known("error_log").is_of_process());
        assert!(!known("hosts").is_of_mail());
        assert_eq!(known("connect_timeout").sections(), "[backend NAME]");
        assert_eq!(known("timeout").sections(), "[mail] or [server NAME]");
        assert_eq!(known("max_errors").default_text(), "5");
    }

    #[test]
    fn no_setter_panics_on_odd_text() {
        let odd = [
            "", " ", "\"", "\\", "=", ":", "[", "]", "é", "\u{0}", "-", "1é", "unix:", "::",
        ];
        for directive in DIRECTIVES {
            if let Setter::Is(set) = directive.setter {
                for text in odd {
                    let _ = set(&mut Draft::for_tests(), text);
                    let _ = set(&mut Draft::for_tests(), &text.repeat(3000));
                }
            }
        }
    }
}
