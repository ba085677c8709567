//! Debian's nginx with its mail module.

use std::path::Path;

use super::Order;
use crate::process::{self, Process};
use crate::system;

const PROGRAM: &str = "/usr/sbin/nginx";
const MAIL_MODULE: &str = "/usr/lib/nginx/modules/ngx_mail_module.so";

pub(super) fn version() -> Result<String, String> {
    let said = process::run(Path::new(PROGRAM), &["-v"])?;
    let version = said.trim().strip_prefix("nginx version: ");
    Ok(version.unwrap_or(&said).trim().to_owned())
}

pub(super) fn start(order: &Order<'_>) -> Result<Process, String> {
    let file = order.write("nginx.conf", &config(order))?;
    let folder = order.folder.display().to_string();
    let log = order.log.display().to_string();
    let arguments = ["-p", &folder, "-e", &log, "-c", &file].map(str::to_owned);
    Process::start(Path::new(PROGRAM), &arguments, &order.log)
}

fn config(order: &Order<'_>) -> String {
    let (folder, log, auth) = (order.folder.display(), order.log.display(), order.auth());
    let files = system::descriptor_limit();
    let certificate = order.certificate();
    let mut text = format!(
        "load_module {MAIL_MODULE};\ndaemon off;\nuser root;\npid {folder}/nginx.pid;\n\
         error_log {log} info;\nworker_processes auto;\nworker_rlimit_nofile {files};\n\
         events {{ worker_connections 32768; }}\nmail {{\nserver_name proxy.test;\n\
         imap_capabilities IMAP4rev1;\nauth_http {auth}/auth;\n\
         ssl_certificate {};\nssl_certificate_key {};\nssl_protocols TLSv1.2 TLSv1.3;\n",
        certificate.certificate.display(),
        certificate.key.display()
    );
    for (key, value) in &order.setup.settings {
        text += &format!("{key} {value};\n");
    }
    let name = order.setup.protocol.name();
    text += &format!("server {{ protocol {name}; listen {};", order.places.plain);
    if let Some(tls) = order.places.tls {
        text += &format!(" listen {tls} ssl;");
    }
    text + " }\n}\n"
}
