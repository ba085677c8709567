//! Dovecot's login processes as a proxy, in the high-performance mode of its documentation: they serve
//! many connections each (`service_count = 0`), and there are as many as the machine has cores. It
//! asks no service: its own auth process sends everybody to the same server.

use std::path::Path;
use std::thread;

use super::{Order, Protocol};
use crate::process::{self, Process};

const PROGRAM: &str = "/usr/sbin/dovecot";

pub(super) fn version() -> Result<String, String> {
    let said = process::run(Path::new(PROGRAM), &["--version"])?;
    let number = said.split(' ').next().unwrap_or_default();
    Ok(format!("Dovecot {}", number.trim()))
}

pub(super) fn start(order: &Order<'_>) -> Result<Process, String> {
    let file = order.write("dovecot.conf", &config(order))?;
    let arguments = ["-F", "-c", &file].map(str::to_owned);
    Process::start(Path::new(PROGRAM), &arguments, &order.log)
}

fn config(order: &Order<'_>) -> String {
    let (folder, log) = (order.folder.display(), order.log.display());
    let certificate = order.certificate();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let connections = order.connections();
    let name = match order.setup.protocol {
        Protocol::Imap => "imap",
        Protocol::Pop3 => "pop3",
        Protocol::Smtp => "submission",
    };
    // A listener without a port is none; otherwise the usual one would be there.
    let (second, tls) = match order.setup.protocol {
        Protocol::Imap => ("imaps", order.places.tls.map_or(0, |tls| tls.port())),
        Protocol::Pop3 => ("pop3s", 0),
        Protocol::Smtp => ("submissions", 0),
    };
    format!(
        "base_dir = {folder}/run\nstate_dir = {folder}/run\nlog_path = {log}\n\
         protocols = {name}\nlisten = 127.0.0.1\nauth_mechanisms = plain login\n\
         disable_plaintext_auth = no\nssl = yes\nssl_cert = <{}\nssl_key = <{}\n\
         mail_max_userip_connections = 0\n\
         default_client_limit = {connections}\ndefault_vsz_limit = 0\n\
         passdb {{\n  driver = static\n  args = proxy=y host=127.0.0.1 port={} nopassword=y\n}}\n\
         service {name}-login {{\n  service_count = 0\n  client_limit = {connections}\n  \
         process_min_avail = {cores}\n  process_limit = {cores}\n  \
         inet_listener {name} {{\n    port = {}\n  }}\n  \
         inet_listener {second} {{\n    port = {tls}\n    ssl = yes\n  }}\n}}\n",
        certificate.certificate.display(),
        certificate.key.display(),
        order.stub().port(),
        order.places.plain.port(),
    )
}
