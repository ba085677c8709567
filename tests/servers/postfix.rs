//! Postfix with one smtpd for each thing a proxy meets: XCLIENT allowed and not, AUTH, TLS, PROXY
//! headers. It delivers mail for example.test into Dovecot's mailboxes. It needs root.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::unistd::{Group, Uid, User, chown};

use super::dovecot::{self, Dovecot};
use super::{START, certificate, fill, local, wait_until_listening};
use crate::common::ports::free_port;
use crate::common::process::Process;
use crate::common::temp::TempDir;
use crate::common::tools::run;
use crate::common::wait;

/// A running Postfix.
pub(crate) struct Postfix {
    /// Allows XCLIENT from loopback, offers no AUTH.
    pub(crate) smtp: SocketAddr,
    /// Refuses XCLIENT.
    pub(crate) smtp_plain: SocketAddr,
    /// Takes mail only after AUTH with one of Dovecot's logins; allows XCLIENT.
    pub(crate) smtp_auth: SocketAddr,
    /// Offers STARTTLS.
    pub(crate) smtp_starttls: SocketAddr,
    /// SMTP over TLS.
    pub(crate) smtps: SocketAddr,
    /// Every connection begins with a PROXY header.
    pub(crate) smtp_haproxy: SocketAddr,
    /// What it logs.
    pub(crate) log: PathBuf,
    /// The certificate it shows.
    pub(crate) certificate: PathBuf,
    _folder: TempDir,
    _process: Process,
}

/// The Postfix of this test binary, in front of its Dovecot.
pub(crate) fn shared() -> &'static Postfix {
    static SHARED: OnceLock<Postfix> = OnceLock::new();
    SHARED.get_or_init(|| Postfix::start(dovecot::shared()))
}

impl Postfix {
    /// Starts one that delivers to this Dovecot.
    pub(crate) fn start(dovecot: &Dovecot) -> Postfix {
        Postfix::start_with(dovecot, "", "")
    }

    /// Starts one with these lines at the end of its main.cf and its master.cf.
    pub(crate) fn start_with(dovecot: &Dovecot, main: &str, master: &str) -> Postfix {
        assert!(
            Uid::effective().is_root(),
            "Postfix runs for root only: start the tests as root"
        );
        let folder = TempDir::new("postfix");
        let pair = certificate::make(folder.path());
        make_queue(folder.path());
        let mut ports: Vec<u16> = (0..6).map(|_| free_port()).collect();
        let values = values(&folder, dovecot, &pair, &ports);
        let etc = folder.path().join("etc");
        fs::create_dir(&etc).expect("the folder is ours");
        let main = format!("{}\n{main}", fill(include_str!("main.cf"), &values));
        let master = format!("{}\n{master}", fill(include_str!("master.cf"), &values));
        folder.write("etc/main.cf", main);
        folder.write("etc/master.cf", &master);
        let log = folder.path().join("mail.log");
        let program = format!("{}/master", daemon_directory());
        let arguments = ["-c".as_ref(), etc.as_os_str(), "-s".as_ref()];
        let mut process = Process::start_silent(&program, arguments);
        // Its last words, if it cannot have a port, come after it has opened those before.
        let lines = master
            .lines()
            .filter_map(|line| line.strip_prefix("127.0.0.1:"));
        let further = lines.filter_map(|line| line.split_once(' ')?.0.parse::<u16>().ok());
        ports.extend(
            further
                .filter(|port| !ports.contains(port))
                .collect::<Vec<_>>(),
        );
        // Its log has one reader, which logs too: when all services have something to say before it is there,
        // its socket is full, and all wait for each other.
        wait_until_listening(&mut process, &ports[..1], &log);
        wait::until_true("Postfix logs", START, || {
            fs::metadata(&log).is_ok_and(|log| log.len() > 0)
        });
        wait_until_listening(&mut process, &ports, &log);
        Postfix {
            smtp: local(ports[0]),
            smtp_plain: local(ports[1]),
            smtp_auth: local(ports[2]),
            smtp_starttls: local(ports[3]),
            smtps: local(ports[4]),
            smtp_haproxy: local(ports[5]),
            log,
            certificate: pair.certificate,
            _folder: folder,
            _process: process,
        }
    }
}

fn values(
    folder: &TempDir,
    dovecot: &Dovecot,
    pair: &certificate::Certificate,
    ports: &[u16],
) -> Vec<(&'static str, String)> {
    let names = [
        "SMTP",
        "SMTP_PLAIN",
        "SMTP_AUTH",
        "SMTP_STARTTLS",
        "SMTPS",
        "SMTP_HAPROXY",
    ];
    let mut values: Vec<(&str, String)> = names
        .into_iter()
        .zip(ports)
        .map(|(name, port)| (name, port.to_string()))
        .collect();
    values.extend([
        ("DIR", folder.path().display().to_string()),
        ("LMTP", dovecot.lmtp.to_string()),
        ("AUTH_SOCKET", dovecot.auth_socket.display().to_string()),
        ("CERTIFICATE", pair.certificate.display().to_string()),
        ("KEY", pair.key.display().to_string()),
    ]);
    values
}

/// Where the daemons of the installed Postfix are.
fn daemon_directory() -> String {
    let said = run("/usr/sbin/postconf", &["-h", "-d", "daemon_directory"], b"");
    said.text().trim().to_owned()
}

/// The queue as `postfix check` would make it.
fn make_queue(folder: &Path) {
    let owner = User::from_name("postfix").ok().flatten();
    let owner = owner.expect("the package made the user postfix").uid;
    let group = Group::from_name("postdrop").ok().flatten();
    let group = group.expect("the package made the group postdrop").gid;
    let queue = folder.join("queue");
    fs::create_dir_all(queue.join("pid")).expect("the folder is ours");
    let private = [
        "active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private",
        "saved", "trace",
    ];
    for name in private {
        make_folder(&queue.join(name), 0o700, owner, None);
    }
    make_folder(&queue.join("maildrop"), 0o730, owner, Some(group));
    make_folder(&queue.join("public"), 0o710, owner, Some(group));
    make_folder(&folder.join("data"), 0o700, owner, None);
}

fn make_folder(path: &Path, mode: u32, owner: Uid, group: Option<nix::unistd::Gid>) {
    fs::create_dir(path).expect("the folder above is ours");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("the folder is ours");
    chown(path, Some(owner), group).expect("root may give folders away");
}
