//! The programs that are compared, each started with the same settings in front of the same servers:
//! one file and one template of a configuration for each. Without a proxy, clients go to the servers
//! themselves, which shows what the generator and the servers can do.

mod dovecot;
mod haproxy;
mod nginx;
mod postern;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::process::{Process, free_address};
use crate::stage::Stage;
use crate::stub::Kind;
use crate::system;
use crate::tls::{Certificate, KeyKind};

pub(crate) use postern::Setting;

/// A program, called so in the tables.
#[derive(Clone)]
pub(crate) struct Program {
    pub(crate) name: &'static str,
    kind: ProgramKind,
}

#[derive(Clone)]
enum ProgramKind {
    /// No proxy.
    Direct,
    /// A binary of postern, and settings that its operator chose.
    Postern(PathBuf, Vec<Setting>),
    Nginx,
    Dovecot,
    Haproxy,
}

/// The mail protocols.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Imap,
    Pop3,
    Smtp,
}

impl Protocol {
    /// What nginx and postern call it.
    fn name(self) -> &'static str {
        match self {
            Self::Imap => "imap",
            Self::Pop3 => "pop3",
            Self::Smtp => "smtp",
        }
    }

    fn stub(self) -> Kind {
        match self {
            Self::Imap => Kind::Imap,
            Self::Pop3 => Kind::Pop3,
            Self::Smtp => Kind::Smtp,
        }
    }
}

/// Which programs have what a case is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// All that are proxies, and none.
    All,
    /// All, and postern once more with connections to the auth server that are kept.
    AllAndKept,
    /// Those that know nginx's directives.
    NginxLike,
}

/// What a case needs.
#[derive(Clone)]
pub(crate) struct Setup {
    /// Has a listener; IMAP has one with TLS as well.
    pub(crate) protocol: Protocol,
    pub(crate) certificate: KeyKind,
    pub(crate) who: Who,
    /// The most threads that postern may use before login.
    pub(crate) workers: Option<usize>,
    /// How many sessions postern lets in; its default if `None`.
    pub(crate) max_sessions: Option<usize>,
    /// Settings of all servers, which nginx and postern call the same.
    pub(crate) settings: Vec<(&'static str, &'static str)>,
    /// postern decides by routes instead of asking the auth server.
    pub(crate) routes: bool,
}

impl Setup {
    /// A server of this protocol, with a certificate of ECDSA.
    pub(crate) fn of(protocol: Protocol) -> Self {
        Self {
            protocol,
            certificate: KeyKind::Ecdsa,
            who: Who::All,
            workers: None,
            max_sessions: None,
            settings: Vec::new(),
            routes: false,
        }
    }
}

/// A running proxy, or none at all.
pub(crate) struct Proxy {
    plain: SocketAddr,
    tls: Option<SocketAddr>,
    process: Option<Process>,
    _folder: TempDir,
}

impl Program {
    /// All of them, in the order of the tables. `before` is a second binary of postern.
    pub(crate) fn all(postern: &Path, before: Option<&Path>, chosen: &[Setting]) -> Vec<Self> {
        let mut kept = chosen.to_vec();
        kept.push(Setting::new("mail", "auth_http_keepalive", "16"));
        let program = |name, kind| Self { name, kind };
        let mut all = vec![
            program("direct", ProgramKind::Direct),
            program(
                "postern",
                ProgramKind::Postern(postern.into(), chosen.to_vec()),
            ),
            program("postern, kept", ProgramKind::Postern(postern.into(), kept)),
        ];
        if let Some(before) = before {
            let kind = ProgramKind::Postern(before.into(), Vec::new());
            all.push(program("before", kind));
        }
        all.extend([
            program("nginx", ProgramKind::Nginx),
            program("Dovecot", ProgramKind::Dovecot),
            program("HAProxy", ProgramKind::Haproxy),
        ]);
        all
    }

    /// Whether it takes part in a case with this setup.
    pub(crate) fn can(&self, setup: &Setup) -> bool {
        match (&self.kind, setup.who) {
            (ProgramKind::Postern(..), who) => {
                who == Who::AllAndKept || self.name != "postern, kept"
            }
            (ProgramKind::Nginx, _) => true,
            (_, who) => who != Who::NginxLike,
        }
    }

    /// What it says of its version; nothing where there is no program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn version(&self) -> Result<Option<String>, String> {
        match &self.kind {
            ProgramKind::Direct => Ok(None),
            ProgramKind::Postern(binary, _) => postern::version(binary).map(Some),
            ProgramKind::Nginx => nginx::version().map(Some),
            ProgramKind::Dovecot => dovecot::version().map(Some),
            ProgramKind::Haproxy => haproxy::version().map(Some),
        }
    }

    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) fn start(&self, setup: &Setup, stage: &Stage) -> Result<Proxy, String> {
        // Dovecot's processes run as other users.
        let folder = tempfile::Builder::new()
            .prefix("postern-bench-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()
            .map_err(|error| format!("there is no temporary folder: {error}"))?;
        let places = Places::choose(self, setup, stage)?;
        let order = Order {
            setup,
            stage,
            folder: folder.path(),
            places: &places,
            log: folder.path().join("error.log"),
        };
        let started = match &self.kind {
            ProgramKind::Direct => None,
            ProgramKind::Postern(binary, chosen) => Some(postern::start(&order, binary, chosen)?),
            ProgramKind::Nginx => Some(nginx::start(&order)?),
            ProgramKind::Dovecot => Some(dovecot::start(&order)?),
            ProgramKind::Haproxy => Some(haproxy::start(&order)?),
        };
        let process = match started {
            Some(mut process) => {
                process.wait_until_listening(&places.all(), &order.log)?;
                Some(process)
            }
            None => None,
        };
        Ok(Proxy {
            plain: places.plain,
            tls: places.tls,
            process,
            _folder: folder,
        })
    }
}

/// Where a program listens.
struct Places {
    plain: SocketAddr,
    /// For clients that begin with TLS, which those of IMAP may.
    tls: Option<SocketAddr>,
}

impl Places {
    fn choose(program: &Program, setup: &Setup, stage: &Stage) -> Result<Self, String> {
        let has_tls = setup.protocol == Protocol::Imap;
        if matches!(program.kind, ProgramKind::Direct) {
            let tls = stage.stubs.tls_address(setup.certificate);
            return Ok(Self {
                plain: stage.stubs.address(setup.protocol.stub()),
                tls: has_tls.then_some(tls),
            });
        }
        let free = || free_address().map_err(|error| format!("there is no free port: {error}"));
        let plain = free()?;
        let tls = if has_tls { Some(free()?) } else { None };
        Ok(Self { plain, tls })
    }

    fn all(&self) -> Vec<SocketAddr> {
        let plain = [self.plain].into_iter();
        plain.chain(self.tls).collect()
    }
}

/// What a program is to be started with.
struct Order<'a> {
    setup: &'a Setup,
    stage: &'a Stage,
    folder: &'a Path,
    places: &'a Places,
    log: PathBuf,
}

impl Order<'_> {
    /// Where the mail server is.
    fn stub(&self) -> SocketAddr {
        self.stage.stubs.address(self.setup.protocol.stub())
    }

    /// How many connections a program can serve that needs two descriptors for each.
    fn connections(&self) -> u64 {
        (system::descriptor_limit().saturating_sub(500) / 2).min(16_000)
    }

    fn certificate(&self) -> &Certificate {
        self.stage.certificate(self.setup.certificate)
    }

    /// Where the auth server is.
    fn auth(&self) -> SocketAddr {
        self.stage.stubs.address(Kind::Auth)
    }

    /// Writes the configuration.
    fn write(&self, name: &str, text: &str) -> Result<String, String> {
        let file = self.folder.join(name);
        fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(file.display().to_string())
    }
}

impl Proxy {
    /// Where it takes clients.
    pub(crate) fn address(&self) -> SocketAddr {
        self.plain
    }

    /// The same for clients that begin with TLS.
    ///
    /// # Panics
    /// Where the protocol is not IMAP.
    pub(crate) fn tls_address(&self) -> SocketAddr {
        self.tls.expect("IMAP has a listener with TLS")
    }

    /// Whether it is no proxy at all.
    pub(crate) fn is_direct(&self) -> bool {
        self.process.is_none()
    }

    /// Its process and those that descend from it; none without a proxy.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let process = self.process.as_ref();
        process.map_or_else(Vec::new, |process| system::family(process.id()))
    }

    /// CPU time that all its processes have used so far; none without a proxy.
    pub(crate) fn cpu_time(&self) -> Duration {
        let process = self.process.as_ref();
        process.map_or(Duration::ZERO, |process| system::cpu_time(process.id()))
    }
}
