//! Real servers, each in a folder of its own on ports that were free: one file and one template per
//! program. A server that is not installed fails the test that needs it.

pub(crate) mod certificate;
pub(crate) mod dnsmasq;
pub(crate) mod dovecot;
pub(crate) mod haproxy;
pub(crate) mod nginx;
pub(crate) mod postfix;
pub(crate) mod redis;

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::common::postern::Postern;
use crate::common::process::Process;
use crate::common::wait;

/// How long a server may take until it listens.
pub(crate) const START: Duration = Duration::from_secs(20);

/// An address on 127.0.0.1.
pub(crate) fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Waits until `process` listens on all `ports`.
///
/// # Panics
/// When it ends instead; with its log.
pub(crate) fn wait_until_listening(process: &mut Process, ports: &[u16], log: &Path) {
    for port in ports {
        wait::until("a server listens", START, || {
            if let Some(status) = process.try_status() {
                let log = std::fs::read_to_string(log).unwrap_or_default();
                panic!("the server ended with {status}:\n{log}");
            }
            TcpStream::connect(local(*port)).ok()
        });
    }
}

/// Fills `@NAME@` in a template.
pub(crate) fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("@{name}@"), value);
    }
    text
}

pub(crate) mod pki;

/// The proxy with one service of each protocol in front of the Dovecot and the Postfix that all tests share,
/// where the backend decides; `more` is for all three.
pub(crate) fn office(more: &str) -> Postern {
    let (dovecot, postfix) = (dovecot::shared(), postfix::shared());
    let (imap, pop3) = (dovecot.imap.port(), dovecot.pop3.port());
    let smtp = postfix.smtp_auth.port();
    let mut ini = format!(
        "[backend office]\nhosts = 127.0.0.1\nimap_port = {imap}\npop3_port = {pop3}\n\
         smtp_port = {smtp}\n[mail]\n{more}\n"
    );
    for protocol in ["imap", "pop3", "smtp"] {
        ini += &format!("[server {protocol}]\nprotocol = {protocol}\nlisten = 127.0.0.1:0\n");
    }
    Postern::start(&ini)
}
