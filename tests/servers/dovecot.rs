//! Dovecot with IMAP, POP3 and LMTP, plain, with TLS and behind PROXY headers.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::{Gid, Group, Uid, User, chown};

use super::{certificate, fill, local, wait_until_listening};
use crate::common::ports::free_port;
use crate::common::process::Process;
use crate::common::temp::TempDir;

/// Logins with passwords of their own; every other login has the password `secret`.
pub(crate) const USERS: [(&str, &str); 9] = [
    ("alice", "secret"),
    ("bob", "hunter2"),
    ("carol", " two  spaces "),
    ("dave", r#"say "hi" \o/"#),
    ("erin", "pässwörd → ✓"),
    ("frank", "{3}%20%s$(x)&?"),
    ("grace", "x"),
    ("heidi+tag", "plus+and=equals"),
    ("ivan", "a:b;c,d"),
];

/// A running Dovecot.
pub(crate) struct Dovecot {
    /// IMAP with STARTTLS and plain-text logins.
    pub(crate) imap: SocketAddr,
    /// IMAP over TLS.
    pub(crate) imaps: SocketAddr,
    /// IMAP; every connection begins with a PROXY header.
    pub(crate) imap_haproxy: SocketAddr,
    /// POP3 with STLS and plain-text logins.
    pub(crate) pop3: SocketAddr,
    /// POP3 over TLS.
    pub(crate) pop3s: SocketAddr,
    /// POP3; every connection begins with a PROXY header.
    pub(crate) pop3_haproxy: SocketAddr,
    /// Delivery.
    pub(crate) lmtp: SocketAddr,
    /// Authentication socket for Postfix.
    pub(crate) auth_socket: PathBuf,
    /// What it logs.
    pub(crate) log: PathBuf,
    /// The certificate it shows.
    pub(crate) certificate: PathBuf,
    folder: TempDir,
    _process: Process,
}

/// The Dovecot of this test binary; tests use mailboxes of their own.
pub(crate) fn shared() -> &'static Dovecot {
    static SHARED: OnceLock<Dovecot> = OnceLock::new();
    SHARED.get_or_init(Dovecot::start)
}

impl Dovecot {
    /// Starts one.
    pub(crate) fn start() -> Dovecot {
        Dovecot::start_with("")
    }

    /// Starts one with these lines at the end of its configuration.
    pub(crate) fn start_with(more: &str) -> Dovecot {
        let folder = TempDir::new("dovecot");
        let pair = certificate::make(folder.path());
        folder.write("users", users());
        let mail = folder.path().join("mail");
        fs::create_dir(&mail).expect("the folder is ours");
        give_to_mail_user(&mail);
        let ports: Vec<u16> = (0..7).map(|_| free_port()).collect();
        let config = format!("{}\n{more}", config(&folder, &pair, &ports));
        let config = folder.write("dovecot.conf", config);
        let log = folder.path().join("dovecot.log");
        let arguments = ["-F".as_ref(), "-c".as_ref(), config.as_os_str()];
        let mut process = Process::start_silent("dovecot", arguments);
        wait_until_listening(&mut process, &[ports[0], ports[3], ports[6]], &log);
        Dovecot {
            imap: local(ports[0]),
            imaps: local(ports[1]),
            imap_haproxy: local(ports[2]),
            pop3: local(ports[3]),
            pop3s: local(ports[4]),
            pop3_haproxy: local(ports[5]),
            lmtp: local(ports[6]),
            auth_socket: folder.path().join("run/auth-smtp"),
            log,
            certificate: pair.certificate,
            folder,
            _process: process,
        }
    }

    /// Puts a message into the INBOX of `user`, as a delivery does; `text` has bare LFs, as in any
    /// Maildir.
    pub(crate) fn deliver(&self, user: &str, text: &[u8]) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let maildir = self.maildir(user);
        // A fixed, rising time keeps the order of messages the order of deliveries.
        let name = format!("{}.P1M{number}.test", 1_700_000_000 + number);
        let temporary = maildir.join("tmp").join(&name);
        fs::write(&temporary, text).expect("the Maildir is ours");
        give_to_mail_user(&temporary);
        fs::rename(&temporary, maildir.join("new").join(&name)).expect("the Maildir is ours");
    }

    /// A mailbox nobody else has: `user` with its messages.
    pub(crate) fn fill_mailbox(&self, user: &str, messages: &[Vec<u8>]) {
        for message in messages {
            self.deliver(user, message);
        }
    }

    fn maildir(&self, user: &str) -> PathBuf {
        let maildir = self.folder.path().join("mail").join(user);
        for part in ["", "tmp", "new", "cur"] {
            let folder = maildir.join(part);
            if fs::create_dir_all(&folder).is_ok() {
                give_to_mail_user(&folder);
            }
        }
        maildir
    }
}

fn config(folder: &TempDir, pair: &certificate::Certificate, ports: &[u16]) -> String {
    let owner = Owner::of_mail();
    let (login, internal, internal_group, chroot) = if Uid::effective().is_root() {
        (
            "dovenull".to_owned(),
            "dovecot".to_owned(),
            "dovecot".to_owned(),
            "login",
        )
    } else {
        (
            owner.user.clone(),
            owner.user.clone(),
            owner.group.clone(),
            "",
        )
    };
    let names = [
        "IMAP",
        "IMAPS",
        "IMAP_HAPROXY",
        "POP3",
        "POP3S",
        "POP3_HAPROXY",
        "LMTP",
    ];
    let mut values: Vec<(&str, String)> = names
        .iter()
        .zip(ports)
        .map(|(name, port)| (*name, port.to_string()))
        .collect();
    values.extend([
        ("DIR", folder.path().display().to_string()),
        ("CERTIFICATE", pair.certificate.display().to_string()),
        ("KEY", pair.key.display().to_string()),
        ("LOGIN_USER", login),
        ("INTERNAL_USER", internal),
        ("INTERNAL_GROUP", internal_group),
        ("LOGIN_CHROOT", chroot.to_owned()),
        ("MAIL_USER", owner.user),
        ("MAIL_GROUP", owner.group),
    ]);
    fill(include_str!("dovecot.conf"), &values)
}

/// Whose the mail is: not root's when we are root, for Dovecot refuses that.
struct Owner {
    user: String,
    group: String,
    uid: Uid,
    gid: Gid,
}

impl Owner {
    fn of_mail() -> Owner {
        let user = if Uid::effective().is_root() {
            User::from_name("mail")
        } else {
            User::from_uid(Uid::effective())
        };
        let user = user
            .ok()
            .flatten()
            .expect("the user is in the system's list");
        let group = Group::from_gid(user.gid)
            .ok()
            .flatten()
            .expect("the user's group is in the system's list");
        Owner {
            user: user.name,
            group: group.name,
            uid: user.uid,
            gid: user.gid,
        }
    }
}

fn give_to_mail_user(path: &std::path::Path) {
    static OWNER: OnceLock<(Uid, Gid)> = OnceLock::new();
    let (uid, gid) = *OWNER.get_or_init(|| {
        let owner = Owner::of_mail();
        (owner.uid, owner.gid)
    });
    chown(path, Some(uid), Some(gid)).expect("a new file can be given away");
}

fn users() -> String {
    USERS
        .iter()
        .map(|(user, password)| user_line(user, password))
        .collect()
}

/// In hex, since a colon or a line end in a password would end the field.
fn user_line(user: &str, password: &str) -> String {
    let hex: String = password.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{user}:{{PLAIN.HEX}}{hex}\n")
}
