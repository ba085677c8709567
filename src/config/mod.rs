//! The configuration as the rest of the program sees it: typed, complete, immutable.
//!
//! A field has its directive's name. A file goes through `source` (lines), `draft` (the setters of
//! the table `directives`, which parse with the kinds of `value`, `address`, `listen` and others) and
//! `check` (rules across directives); `reference` renders the table for people. No socket is opened.

mod address;
mod backend;
mod check;
mod check_access;
mod check_backends;
mod check_tls;
mod deny;
mod directives;
mod draft;
mod listen;
mod log_target;
mod master;
mod mistake;
mod names;
mod reference;
mod route;
mod source;
mod store_url;
#[cfg(test)]
mod tests;
mod tls_value;
mod users;
mod value;

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::log::{LogTarget, TextLayout};
use crate::protocol::{PerProtocol, Protocol, Purpose};
use crate::sasl::Mechanism;
use crate::system::keeper;
use crate::tls;

pub use backend::{AuthMechanism, Backend, BackendHost, Balance};
pub use check::describe;
pub use deny::DenyItem;
pub(crate) use deny::{parse_deny, read_deny};
pub use directives::{KnownDirective, ValueShape, known_directive};
pub use master::MasterLogin;
pub use mistake::{Mistake, MistakeKind};
pub(crate) use names::{Names, names};
pub use reference::{manual, reference, sample};
pub use route::{
    Pattern, Route, RouteLine, RouteMap, RouteTarget, parse_map, parse_route, read_map,
};
pub use store_url::{StoreHost, StoreUrl};
pub(crate) use users::{UserFiles, parse_users, read_users, user_files};

/// Where packages put the configuration.
pub const USUAL_FILE: &str = "/etc/postern/postern.ini";

/// Reads a configuration file of at most 1 MiB, and the keys, certificates and maps it names. File names in
/// it are relative to its folder.
///
/// # Errors
/// Every mistake at once, sorted by line; a single one if the file cannot be read.
pub fn load(path: &Path) -> Result<Config, Vec<Mistake>> {
    let bytes = read_file(path)
        .map_err(|error| vec![Mistake::of_file(path, format!("cannot be read: {error}"))])?;
    build(&bytes, path, listen::system_lookup, Files::Read)
}

/// The same for text that is already there; `file` is what errors call it. No other file is read:
/// what is wrong with keys, certificates and maps is not found.
///
/// # Errors
/// As `load`.
pub fn parse(text: &str, file: &Path) -> Result<Config, Vec<Mistake>> {
    build(text.as_bytes(), file, listen::system_lookup, Files::Leave)
}

/// A time as directives have it, such as `1h30m`; a second at least.
///
/// # Errors
/// For people: what is wrong with it.
pub(crate) fn time_from_a_second(text: &str) -> Result<Duration, String> {
    value::time(text, value::FROM_A_SECOND)
}

/// What is done about the files that a configuration names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files {
    Read,
    Leave,
}

fn build(
    bytes: &[u8],
    file: &Path,
    lookup: listen::Lookup,
    files: Files,
) -> Result<Config, Vec<Mistake>> {
    if bytes.len() > source::MAX_FILE {
        return Err(vec![Mistake::of_file(file, "larger than 1 MiB")]);
    }
    let folder = folder_of(file);
    let mut report = source::Report::new(file.display().to_string());
    let sections = source::read(bytes, &mut report);
    let drafts = draft::assemble(&sections, &folder, lookup, &mut report);
    check_access::check(&drafts, file, &mut report);
    if files == Files::Read {
        check_access::check_log_folders(&drafts, &mut report);
        check_access::check_confinement(&drafts, &mut report);
    }
    let checked = check::check(drafts, files, &mut report);

    let (mistakes, warnings) = report.finish();
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    Ok(Config {
        warnings,
        files: names::of_sections(&sections, file).files,
        ..checked
    })
}

/// What the names of files in a configuration are relative to. The process may change its folder later on.
fn folder_of(file: &Path) -> PathBuf {
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned())
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    read_text(keeper::open(path)?)
}

/// The text of a configuration; at most one byte more than is allowed.
///
/// # Errors
/// The system's.
pub(crate) fn read_text(file: impl Read) -> io::Result<Vec<u8>> {
    let limit = u64::try_from(source::MAX_FILE).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Everything one configuration file says.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[postern]`: the process.
    pub process: Process,
    /// One per `[server NAME]`, in file order, `[mail]` already merged in.
    pub servers: Vec<Server>,
    /// One per `[backend NAME]`, in file order.
    pub backends: Vec<Backend>,
    /// `[routes]`, in file order; the first that fits a login wins.
    pub routes: Vec<RouteLine>,
    /// What is merely without effect, as `FILE:LINE: [section] key: …`; for the log and for `check`.
    pub warnings: Vec<String>,
    /// Itself, and every file that it names to be read.
    pub(crate) files: Vec<PathBuf>,
}

/// `[postern]`.
#[derive(Debug, Clone)]
pub struct Process {
    /// Most threads that carry sessions up to the end of their login.
    pub workers: usize,
    /// How long a worker waits in place for its client before the session sleeps.
    pub client_wait: Duration,
    /// How long a client before its login may leave untaken what it is told.
    pub send_timeout: Duration,
    /// Sessions from accept to close, relays included.
    pub max_sessions: usize,
    /// Sessions before login of one address (IPv6: of one /64); `None` is no limit.
    pub max_prelogin_per_ip: Option<usize>,
    /// Who is not let in.
    pub deny: Vec<DenyItem>,
    /// Where nodes keep what they share; `None` is each for itself.
    pub limits_store: Option<StoreUrl>,
    /// Trusted issuers of the certificate there; the system's store if unset.
    pub limits_store_trusted_certificate: Option<PathBuf>,
    /// How long QUIT lets relays run.
    pub shutdown_timeout: Duration,
    /// How long sessions begun before a reload may go on; `None` is for ever.
    pub reload_timeout: Option<Duration>,
    /// User to become once the ports are bound.
    pub user: Option<String>,
    /// Group to become once the ports are bound; the user's own if unset.
    pub group: Option<String>,
    /// File that gets the process id.
    pub pid: Option<PathBuf>,
    /// Whether the process confines itself to its files.
    pub landlock: bool,
    /// Where the control socket is.
    pub control: Control,
    /// Group of the control socket; nobody's but the user's if unset.
    pub control_group: Option<String>,
    /// Where the status page is; `None` is off.
    pub status: Option<Status>,
    /// Where lines outside sessions go, and those of servers without their own `error_log`.
    pub error_log: Vec<LogTarget>,
    /// Tags of the process's own lines, for `filter=tag:`.
    pub error_log_user_tag: Vec<String>,
    /// How lines of text name their session, in every log of the process.
    pub log_format: TextLayout,
}

/// `control`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// There is none.
    Off,
    /// Not said: [`Control::USUAL`], where its folder exists.
    WhereFolderExists,
    /// There.
    At(PathBuf),
}

impl Control {
    /// Where packages have it.
    pub const USUAL: &str = "/run/postern/control";
}

/// What a configuration file says of `control`, whatever else it says: a file with mistakes is no reason
/// not to find a process that runs. The file is read by the caller himself.
///
/// # Errors
/// The system's; or the file is larger than a configuration can be.
pub fn control_of(file: &Path) -> io::Result<Control> {
    let bytes = read_text(std::fs::File::open(file)?)?;
    if bytes.len() > source::MAX_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut report = source::Report::new(String::new());
    let sections = source::read(&bytes, &mut report);
    let mut lines = sections
        .iter()
        .filter(|section| section.name == "postern")
        .flat_map(|section| section.lines("control"));
    Ok(match lines.next() {
        None => Control::WhereFolderExists,
        Some(entry) => directives::control(&entry.value, &folder_of(file))
            .unwrap_or(Control::WhereFolderExists),
    })
}

/// `status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Where to bind.
    pub listen: Listen,
    /// The host name that stands there instead of an address, in lower case.
    pub host: Option<String>,
}

/// One `[server NAME]`.
#[derive(Debug, Clone)]
pub struct Server {
    /// NAME of the section.
    pub name: String,
    /// The protocol spoken on its listeners.
    pub protocol: Protocol,
    /// Where it listens; never empty.
    pub listen: Vec<Listen>,
    /// Name in the SMTP greeting, in EHLO to the backend and in salts.
    pub server_name: String,
    /// From accept, or the last failed login, to the login command; and again for the backend login.
    pub timeout: Duration,
    /// Unparsable lines before the session is closed.
    pub max_errors: u32,
    /// Parsed commands before login.
    pub max_commands: u32,
    /// DNS servers for the client's name; `None` is off.
    pub resolver: Option<Resolver>,
    /// Limit of each look-up.
    pub resolver_timeout: Duration,
    /// Who decides about logins.
    pub auth: AuthKind,
    /// Auth servers, asked in this order.
    pub auth_http: Vec<HttpUrl>,
    /// Limit of one request to an auth server.
    pub auth_http_timeout: Duration,
    /// Idle connections kept to each auth server.
    pub auth_http_keepalive: usize,
    /// Headers added to each request, in order.
    pub auth_http_header: Vec<(String, String)>,
    /// Whether `Auth-SSL-Cert` is sent.
    pub auth_http_pass_client_cert: bool,
    /// The file of users.
    pub auth_file: Option<PathBuf>,
    /// How long a login that may pass is remembered; `None` is not at all.
    pub auth_cache: Option<Duration>,
    /// Domain of logins without one, for routing; lower case.
    pub login_domain: Option<String>,
    /// Whether `login_domain` is part of the login to the backend too.
    pub login_domain_pass: bool,
    /// Whether the login to the backend loses its domain.
    pub strip_domain: bool,
    /// Failed logins of an address that are answered at once.
    pub auth_penalty_free: u32,
    /// The longest that the answer to a failed login is held back; `None` is never.
    pub auth_penalty_max: Option<Duration>,
    /// Clients whose failed logins cost nothing.
    pub auth_penalty_exempt: Vec<IpNet>,
    /// Failed logins of a user, from where it has never logged in, that are answered at once; `None` is any
    /// number.
    pub auth_failures_per_user: Option<u32>,
    /// Sessions of a user with this protocol; `None` is no limit.
    pub max_sessions_per_user: Option<u32>,
    /// The same from one address (IPv6: from one /64).
    pub max_sessions_per_user_per_ip: Option<u32>,
    /// The directives that each protocol has for itself; those of `protocol` hold.
    pub of_protocol: PerProtocol<OfProtocol>,
    /// How long the SMTP greeting is held back.
    pub smtp_greeting_delay: Duration,
    /// Size of a relay buffer; `None` leaves the choice to Postern.
    pub proxy_buffer: Option<usize>,
    /// Longest silence of a relay, both directions taken together.
    pub proxy_timeout: Duration,
    /// How long a relay is silent in both directions before it gives its threads back; `None` is never.
    pub hibernate_timeout: Option<Duration>,
    /// Whether the backend's refusal is handed to the client.
    pub proxy_pass_error_message: bool,
    /// PROXY header sent to the backend.
    pub proxy_protocol: ProxyProtocol,
    /// Whether SMTP backends are logged in to with AUTH; always with passthrough, and with a file of users
    /// unless it is said otherwise.
    pub proxy_smtp_auth: bool,
    /// Whether SMTP backends are told about the client.
    pub xclient: Xclient,
    /// By whom servers are entered that the auth server names; `None` is by the user.
    pub master: Option<Arc<MasterLogin>>,
    /// Whether IMAP and POP3 backends are told about the client.
    pub send_client_id: SendClientId,
    /// Peers whose PROXY header replaces the client's address.
    pub set_real_ip_from: Vec<TrustedPeer>,
    /// How a login before TLS is refused, where that is required.
    pub plain_login_answer: PlainLoginAnswer,
    /// STARTTLS towards clients.
    pub starttls: Starttls,
    /// TLS towards clients; needed if a listener has `ssl` or `starttls` is not off.
    pub tls: tls::ServerSettings,
    /// TLS towards backends that the auth server names.
    pub proxy_ssl: ProxySsl,
    /// How TLS towards backends is spoken.
    pub proxy_tls: tls::ClientSettings,
    /// TLS towards `https://` auth servers: `auth_http_ssl_*` in the fields of `proxy_ssl_*`.
    pub auth_http_tls: tls::ClientSettings,
    /// Where this server's lines go; empty: where `[postern]`'s go.
    pub error_log: Vec<LogTarget>,
    /// Tags of this server's lines.
    pub error_log_user_tag: Vec<String>,
}

impl Server {
    /// Whether clients can ever speak TLS here; then there are certificates.
    pub fn has_tls(&self) -> bool {
        self.starttls != Starttls::Off || self.listen.iter().any(|listen| listen.ssl)
    }

    /// What it is for.
    pub fn purpose(&self) -> Purpose {
        let is_optional = self.protocol.record().backend_login.is_optional();
        Purpose {
            protocol: self.protocol,
            all_log_in: !(is_optional && self.mechanisms().own_login),
        }
    }

    /// The ways to log in that clients are offered, as the protocol's directive says.
    pub fn mechanisms(&self) -> &Mechanisms {
        &self.of_protocol[self.protocol].auth
    }

    /// What clients are told before their login, as the protocol's directive says.
    pub fn capabilities(&self) -> &Capabilities {
        &self.of_protocol[self.protocol].capabilities
    }

    /// Bytes of a client's command, as the protocol's directive says.
    pub fn client_buffer(&self) -> usize {
        self.of_protocol[self.protocol].client_buffer
    }
}

/// The directives that each protocol has for itself, such as `imap_auth` and `pop3_auth`.
#[derive(Debug, Clone, Default)]
pub struct OfProtocol {
    /// Ways to log in that clients are offered.
    pub auth: Mechanisms,
    /// What clients are told before their login.
    pub capabilities: Capabilities,
    /// Bytes a command may have before login; in IMAP literals included.
    pub client_buffer: usize,
}

/// One `listen` line; a range of ports is several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Where to bind.
    pub address: ListenAddress,
    /// TLS from the first byte.
    pub ssl: bool,
    /// Every connection begins with a PROXY header.
    pub proxy_protocol: bool,
    /// Connections the kernel keeps until they are accepted.
    pub backlog: i32,
    /// SO_RCVBUF in bytes.
    pub rcvbuf: Option<usize>,
    /// SO_SNDBUF in bytes.
    pub sndbuf: Option<usize>,
    /// Whether an IPv6 socket refuses IPv4.
    pub ipv6only: bool,
    /// TCP keepalive towards clients.
    pub so_keepalive: Keepalive,
}

impl Listen {
    /// Whether it is a wildcard that gets connections to this address of the machine.
    pub fn takes(&self, ip: IpAddr) -> bool {
        let ListenAddress::Tcp(own) = &self.address else {
            return false;
        };
        match own.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => ip.is_ipv4(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => ip.is_ipv6() || !self.ipv6only,
            _ => false,
        }
    }
}

/// What a listener binds to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// A TCP port; 0 lets the system choose.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// `so_keepalive`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keepalive {
    /// Not said: Postern's own 120/30/4 seconds.
    Unset,
    /// No keepalive.
    Off,
    /// Keepalive, with the system's value for what is `None`.
    On {
        /// Silence before the first probe.
        idle: Option<Duration>,
        /// Time between probes.
        interval: Option<Duration>,
        /// Unanswered probes before the connection is dead.
        count: Option<u32>,
    },
}

/// `resolver`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Resolver {
    /// Servers in the order in which they are asked; empty stands for `system`.
    pub servers: Vec<SocketAddr>,
    /// Replaces the TTL of answers.
    pub valid: Option<Duration>,
    /// Whether A records are asked for.
    pub ipv4: bool,
    /// Whether AAAA records are asked for.
    pub ipv6: bool,
}

impl Config {
    /// Whether there is more than one backend or auth server that a login can be in progress towards.
    pub fn has_several_targets(&self) -> bool {
        let auth_servers: std::collections::HashSet<_> = self
            .servers
            .iter()
            .flat_map(|server| server.auth_http.iter().map(|url| format!("{url:?}")))
            .collect();
        self.backends.len() + auth_servers.len() > 1
    }
}

/// Where an auth server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    /// Whether to speak TLS.
    pub tls: bool,
    /// Whom to connect to.
    pub host: HttpHost,
    /// Request target, beginning with `/`.
    pub uri: String,
}

/// The host part of an auth server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpHost {
    /// Host name or address (IPv6 without brackets), and port.
    Tcp(String, u16),
    /// Unix socket.
    Unix(PathBuf),
}

/// `imap_auth`, `pop3_auth`, `smtp_auth`: the ways to log in that a server offers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mechanisms {
    /// SASL mechanisms, in no order.
    pub sasl: Vec<&'static Mechanism>,
    /// The way that the protocol has beside SASL: APOP in POP3, in SMTP none at all.
    pub own_login: bool,
}

impl Mechanisms {
    /// Whether this mechanism is listed.
    pub fn has(&self, mechanism: &Mechanism) -> bool {
        self.sasl.contains(&mechanism)
    }
}

/// `auth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthKind {
    /// The auth servers of `auth_http`.
    Http,
    /// The backend, with the client's own credentials.
    Passthrough,
    /// The users of `auth_file`.
    File,
}

impl AuthKind {
    /// Whether the auth servers of `auth_http` are asked.
    pub fn asks_auth_servers(self) -> bool {
        match self {
            Self::Http => true,
            Self::Passthrough | Self::File => false,
        }
    }

    /// Whether the backend decides, which then must be one of ours.
    pub fn passes_through(self) -> bool {
        match self {
            Self::Http | Self::File => false,
            Self::Passthrough => true,
        }
    }

    /// Whether there is somebody else to ask than the backend, whose word can be remembered.
    pub fn can_be_remembered(self) -> bool {
        match self {
            Self::Http | Self::File => true,
            Self::Passthrough => false,
        }
    }

    /// The word for it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Passthrough => "passthrough",
            Self::File => "file",
        }
    }
}

/// `imap_capabilities`, `pop3_capabilities`, `smtp_capabilities`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capabilities {
    /// What the configured backends offer.
    Auto,
    /// These, sent as they are.
    Fixed(Vec<String>),
}

impl Default for Capabilities {
    fn default() -> Self {
        Self::Fixed(Vec::new())
    }
}

impl Capabilities {
    /// What is configured; empty for `Auto`.
    pub fn fixed(&self) -> &[String] {
        match self {
            Self::Auto => &[],
            Self::Fixed(items) => items,
        }
    }

    /// What is announced where no backend is configured, and with `Auto` until one has answered.
    pub fn without_backends(protocol: Protocol) -> Self {
        directives::capabilities_without_backends(protocol)
    }
}

/// `proxy_protocol` towards the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// None.
    Off,
    /// Version 1; also `on`.
    V1,
    /// Version 2.
    V2,
}

/// `xclient`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Xclient {
    /// Never.
    Off,
    /// Always ADDR, LOGIN and NAME.
    On,
    /// Only when the backend's EHLO lists it.
    Auto,
    /// All attributes that the backend's EHLO lists.
    Full,
}

/// `send_client_id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendClientId {
    /// Never.
    Off,
    /// Always, whether the backend offers it or not.
    On,
    /// Where the backend offers it.
    Auto,
}

/// `plain_login_answer`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainLoginAnswer {
    /// The client is told why.
    Said,
    /// As a bad command.
    Bad,
}

/// `starttls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starttls {
    /// Not offered.
    Off,
    /// Offered.
    On,
    /// Required before a login.
    Only,
}

/// `proxy_ssl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxySsl {
    /// Plain text, unless the auth server says otherwise.
    Off,
    /// TLS from the first byte.
    On,
    /// TLS after STARTTLS (POP3: STLS), which the backend must offer.
    StartTls,
}

/// A peer that may say who its client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TrustedPeer {
    /// An address or a range.
    Net(IpNet),
    /// Every Unix socket peer.
    Unix,
}
