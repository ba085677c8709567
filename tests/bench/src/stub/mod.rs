//! The servers behind the proxies, in a process of their own: an auth server, an IMAP, a POP3 and an
//! SMTP server that let everybody in, and one that accepts and never speaks. Their answers cost as
//! little as possible: they share the machine's cores with what is measured.
//!
//! The process ends when its standard input does.

mod auth;
mod mail;
mod server;

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::tls::{Certificate, KeyKind};

pub(crate) use auth::{GUESS, STUCK};
pub(crate) use server::serve;

/// The argument that makes this program the servers; the certificates' and keys' files follow.
pub(crate) const COMMAND: &str = "serve-stubs";

/// What a server is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Imap,
    Pop3,
    Smtp,
    /// Accepts and never speaks.
    Mute,
    Auth,
    /// IMAP within TLS, with the certificate of this kind.
    ImapEcdsa,
    ImapRsa,
}

/// The order in which the process names their addresses.
const KINDS: [Kind; 7] = [
    Kind::Imap,
    Kind::Pop3,
    Kind::Smtp,
    Kind::Mute,
    Kind::Auth,
    Kind::ImapEcdsa,
    Kind::ImapRsa,
];

/// The running servers.
pub(crate) struct Stubs {
    addresses: BTreeMap<Kind, SocketAddr>,
    child: Child,
    input: Option<ChildStdin>,
}

impl Stubs {
    /// Starts the process.
    ///
    /// # Errors
    /// When it does not say where its servers are.
    pub(crate) fn start(ecdsa: &Certificate, rsa: &Certificate) -> io::Result<Self> {
        let files = [&ecdsa.certificate, &ecdsa.key, &rsa.certificate, &rsa.key];
        let mut child = Command::new(std::env::current_exe()?)
            .arg(COMMAND)
            .args(files)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut lines = BufReader::new(output).lines();
        let mut addresses = BTreeMap::new();
        for kind in KINDS {
            let line = lines.next().ok_or(io::ErrorKind::UnexpectedEof)??;
            addresses.insert(kind, line.parse().map_err(io::Error::other)?);
        }
        Ok(Self {
            addresses,
            input: child.stdin.take(),
            child,
        })
    }

    /// The process's number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where one of them listens.
    pub(crate) fn address(&self, kind: Kind) -> SocketAddr {
        self.addresses[&kind]
    }

    /// Where IMAP is spoken within TLS, with a certificate of this kind.
    pub(crate) fn tls_address(&self, key: KeyKind) -> SocketAddr {
        self.address(match key {
            KeyKind::Ecdsa => Kind::ImapEcdsa,
            KeyKind::Rsa => Kind::ImapRsa,
        })
    }

    /// How many guesses the auth server has judged so far.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) fn guesses(&self) -> io::Result<usize> {
        let mut stream = TcpStream::connect(self.address(Kind::Auth))?;
        stream.write_all(format!("GET {} HTTP/1.0\r\n\r\n", auth::GUESSES).as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        answer.trim().parse().map_err(io::Error::other)
    }
}

impl Drop for Stubs {
    fn drop(&mut self) {
        drop(self.input.take());
        // It ends by itself now.
        let _ = self.child.wait();
    }
}

/// The four files behind `COMMAND`.
pub(crate) struct Files {
    ecdsa: (PathBuf, PathBuf),
    rsa: (PathBuf, PathBuf),
}

impl Files {
    /// Takes them from the arguments.
    pub(crate) fn from(arguments: &[String]) -> Option<Self> {
        let [certificate, key, rsa_certificate, rsa_key] = arguments else {
            return None;
        };
        let path = |text: &String| Path::new(text).to_owned();
        Some(Self {
            ecdsa: (path(certificate), path(key)),
            rsa: (path(rsa_certificate), path(rsa_key)),
        })
    }
}
