//! The proxies that are compared: postern's release binary, perhaps a second one, and Debian's nginx
//! with its mail module, each started with the same settings in front of the same servers.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::backends::Backends;
use crate::common::ports::free_port;
use crate::common::process::Process;
use crate::common::temp::TempDir;
use crate::common::tools::run;
use crate::memory;
use crate::servers::certificate::Certificate;
use crate::servers::{local, wait_until_listening};

const MAIL_MODULE: &str = "/usr/lib/nginx/modules/ngx_mail_module.so";

/// Which program.
#[derive(Clone)]
pub(crate) enum Program {
    /// A binary of postern, called so in the report, with settings that its operator chose:
    /// `(section, key, value)`.
    Postern(&'static str, PathBuf, Vec<(String, String, String)>),
    Nginx,
}

/// What a scenario needs.
#[derive(Clone, Default)]
pub(crate) struct Setup {
    /// The most threads that postern may use before login.
    pub(crate) workers: Option<usize>,
    /// How many sessions postern lets in; its default if `None`.
    pub(crate) max_sessions: Option<usize>,
    /// How many connections the kernel keeps until they are accepted; each one's default if `None`.
    pub(crate) backlog: Option<usize>,
    /// Protocols, each with a listener.
    pub(crate) protocols: Vec<&'static str>,
    /// Settings of all servers, which both programs call the same.
    pub(crate) settings: Vec<(&'static str, &'static str)>,
    /// postern decides by routes instead of asking the auth server.
    pub(crate) routes: bool,
}

impl Setup {
    pub(crate) fn imap() -> Self {
        Self {
            protocols: vec!["imap"],
            ..Self::default()
        }
    }
}

/// A running proxy.
pub(crate) struct Proxy {
    /// What the report calls it.
    pub(crate) name: &'static str,
    plain: HashMap<&'static str, SocketAddr>,
    tls: HashMap<&'static str, SocketAddr>,
    process: Process,
    _folder: TempDir,
}

impl Program {
    /// What the report calls it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Postern(name, ..) => name,
            Self::Nginx => "nginx",
        }
    }

    /// What it is, for the head of the report.
    pub(crate) fn description(&self) -> String {
        let name = self.name();
        match self {
            Self::Postern(_, binary, chosen) => {
                let settings = chosen
                    .iter()
                    .map(|(section, key, value)| format!(", [{section}] {key} = {value}"));
                let settings: String = settings.collect();
                format!("{name:<8} {}{settings}", binary.display())
            }
            Self::Nginx => format!("{name:<8} with {MAIL_MODULE}, worker_processes auto"),
        }
    }

    /// Starts it and waits until it listens.
    pub(crate) fn start(
        &self,
        setup: &Setup,
        backends: &Backends,
        certificate: Option<&Certificate>,
    ) -> Proxy {
        let folder = TempDir::new("bench");
        let log = folder.path().join("error.log");
        let mut config = Config {
            setup,
            backends,
            certificate,
            log: &log,
            plain: HashMap::new(),
            tls: HashMap::new(),
        };
        let mut process = match self {
            Self::Postern(_, binary, chosen) => {
                let file = folder.write("postern.ini", config.postern(chosen));
                let arguments = ["--config".as_ref(), file.as_os_str()];
                let binary = binary.display().to_string();
                check(&binary, &file);
                Process::start_silent(&binary, arguments)
            }
            Self::Nginx => {
                let file = folder.write("nginx.conf", config.nginx(folder.path()));
                let path = |path: &Path| path.display().to_string();
                let arguments = [
                    "-p".to_owned(),
                    path(folder.path()),
                    "-e".to_owned(),
                    path(&log),
                    "-c".to_owned(),
                    path(&file),
                ];
                Process::start_silent("nginx", arguments)
            }
        };
        let (plain, tls) = (config.plain, config.tls);
        let ports: Vec<u16> = plain
            .values()
            .chain(tls.values())
            .map(SocketAddr::port)
            .collect();
        wait_until_listening(&mut process, &ports, &log);
        Proxy {
            name: self.name(),
            plain,
            tls,
            process,
            _folder: folder,
        }
    }
}

impl Proxy {
    /// Where it takes clients of a protocol.
    pub(crate) fn address(&self, protocol: &str) -> SocketAddr {
        self.plain[protocol]
    }

    /// The same for clients that begin with TLS.
    pub(crate) fn tls_address(&self, protocol: &str) -> SocketAddr {
        self.tls[protocol]
    }

    /// Its process and those that this has started.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let own = self.process.id();
        let mut all = vec![own];
        all.extend(memory::children(own));
        all
    }
}

struct Config<'a> {
    setup: &'a Setup,
    backends: &'a Backends,
    certificate: Option<&'a Certificate>,
    log: &'a Path,
    plain: HashMap<&'static str, SocketAddr>,
    tls: HashMap<&'static str, SocketAddr>,
}

impl Config<'_> {
    /// Chooses ports for a protocol.
    fn listen(&mut self, protocol: &'static str) -> (SocketAddr, Option<SocketAddr>) {
        let plain = local(free_port());
        self.plain.insert(protocol, plain);
        let tls = self.certificate.map(|_| local(free_port()));
        if let Some(tls) = tls {
            self.tls.insert(protocol, tls);
        }
        (plain, tls)
    }

    fn backlog(&self) -> String {
        let backlog = self.setup.backlog;
        backlog.map_or_else(String::new, |backlog| format!(" backlog={backlog}"))
    }

    fn postern(&mut self, chosen: &[(String, String, String)]) -> String {
        let mut text = format!("[postern]\nerror_log = {} info\n", self.log.display());
        if let Some(workers) = self.setup.workers {
            line(&mut text, &format!("workers = {workers}"));
        }
        if let Some(sessions) = self.setup.max_sessions {
            line(&mut text, &format!("max_sessions = {sessions}"));
        }
        add_chosen(&mut text, chosen, "postern");
        line(
            &mut text,
            "[mail]\nserver_name = proxy.test\nimap_capabilities = IMAP4rev1",
        );
        if self.setup.routes {
            line(&mut text, "auth = passthrough");
        } else {
            let auth = self.backends.auth;
            line(&mut text, &format!("auth_http = http://{auth}/auth"));
        }
        for (key, value) in &self.setup.settings {
            line(&mut text, &format!("{key} = {value}"));
        }
        add_chosen(&mut text, chosen, "mail");
        if let Some(pair) = self.certificate {
            let (certificate, key) = (pair.certificate.display(), pair.key.display());
            line(
                &mut text,
                &format!("ssl_certificate = {certificate}\nssl_certificate_key = {key}"),
            );
        }
        for protocol in &self.setup.protocols {
            let (plain, tls) = self.listen(protocol);
            let backlog = self.backlog();
            line(
                &mut text,
                &format!("[server {protocol}]\nprotocol = {protocol}\nlisten = {plain}{backlog}"),
            );
            if let Some(tls) = tls {
                line(&mut text, &format!("listen = {tls} ssl{backlog}"));
            }
        }
        if self.setup.routes {
            let (quick, slow) = (self.backends.imap, self.backends.mute);
            line(
                &mut text,
                &format!(
                    "[backend quick]\nhosts = {quick}\n[backend slow]\nhosts = {slow}\n\
                     [routes]\nroute = @slow.test slow\nroute = * quick"
                ),
            );
        }
        text
    }

    fn nginx(&mut self, folder: &Path) -> String {
        let (folder, log) = (folder.display(), self.log.display());
        let auth = self.backends.auth;
        let files = memory::descriptor_limit();
        let mut text = format!(
            "load_module {MAIL_MODULE};\ndaemon off;\nuser root;\npid {folder}/nginx.pid;\n\
             error_log {log} info;\nworker_processes auto;\nworker_rlimit_nofile {files};\n\
             events {{ worker_connections 32768; }}\nmail {{\nserver_name proxy.test;\n\
             imap_capabilities IMAP4rev1;\nauth_http {auth}/auth;\n"
        );
        for (key, value) in &self.setup.settings {
            line(&mut text, &format!("{key} {value};"));
        }
        if let Some(pair) = self.certificate {
            let (certificate, key) = (pair.certificate.display(), pair.key.display());
            line(
                &mut text,
                &format!(
                    "ssl_certificate {certificate};\nssl_certificate_key {key};\n\
                     ssl_protocols TLSv1.2 TLSv1.3;"
                ),
            );
        }
        for protocol in &self.setup.protocols {
            let (plain, tls) = self.listen(protocol);
            let backlog = self.backlog();
            line(
                &mut text,
                &format!("server {{ protocol {protocol}; listen {plain}{backlog};"),
            );
            if let Some(tls) = tls {
                line(&mut text, &format!("listen {tls} ssl{backlog};"));
            }
            line(&mut text, "}");
        }
        text + "}\n"
    }
}

/// Lets postern say what it does not like: once it runs, nobody reads what it says.
fn check(binary: &str, file: &Path) {
    let file = file.display().to_string();
    let said = run(binary, &["check", "--config", &file], b"");
    assert!(said.success, "{}", said.everything());
}

fn add_chosen(text: &mut String, chosen: &[(String, String, String)], section: &str) {
    for (_, key, value) in chosen.iter().filter(|(of, ..)| of == section) {
        line(text, &format!("{key} = {value}"));
    }
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes everything");
}
