//! Postern, as the release build is.

use std::fmt::Write as _;
use std::path::Path;

use super::Order;
use crate::process::{self, Process};
use crate::stub::Kind;

/// A line of the configuration that the operator chose.
#[derive(Clone)]
pub(crate) struct Setting {
    section: String,
    key: String,
    value: String,
}

impl Setting {
    pub(crate) fn new(section: &str, key: &str, value: &str) -> Self {
        Self {
            section: section.to_owned(),
            key: key.trim().to_owned(),
            value: value.trim().to_owned(),
        }
    }

    /// `KEY=VALUE`, of `[postern]`, or `mail.KEY=VALUE`.
    ///
    /// # Errors
    /// When it has another form.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (key, value) = text
            .split_once('=')
            .ok_or("it has the form KEY=VALUE or mail.KEY=VALUE")?;
        let (section, key) = key.split_once('.').unwrap_or(("postern", key));
        if !matches!(section, "postern" | "mail") {
            return Err(format!("[{section}] is neither [postern] nor [mail]"));
        }
        Ok(Self::new(section, key, value))
    }
}

pub(super) fn version(binary: &Path) -> Result<String, String> {
    let said = process::run(binary, &["--version"])?;
    Ok(said.trim().to_owned())
}

pub(super) fn start(
    order: &Order<'_>,
    binary: &Path,
    chosen: &[Setting],
) -> Result<Process, String> {
    let file = order.write("postern.ini", &config(order, chosen))?;
    // It says here what it does not like: once it runs, nobody reads what it says.
    process::run(binary, &["check", "--config", &file])?;
    Process::start(binary, &["--config".to_owned(), file], &order.log)
}

fn config(order: &Order<'_>, chosen: &[Setting]) -> String {
    let setup = order.setup;
    let mut lines = vec![
        "[postern]".to_owned(),
        format!("error_log = {} info", order.log.display()),
    ];
    if let Some(workers) = setup.workers {
        lines.push(format!("workers = {workers}"));
    }
    if let Some(sessions) = setup.max_sessions {
        lines.push(format!("max_sessions = {sessions}"));
    }
    lines.extend(chosen_for("postern", chosen));
    let certificate = order.certificate();
    lines.extend([
        "[mail]".to_owned(),
        "server_name = proxy.test".to_owned(),
        "imap_capabilities = IMAP4rev1".to_owned(),
        format!("ssl_certificate = {}", certificate.certificate.display()),
        format!("ssl_certificate_key = {}", certificate.key.display()),
    ]);
    if setup.routes {
        lines.push("auth = passthrough".to_owned());
    } else {
        lines.push(format!("auth_http = http://{}/auth", order.auth()));
    }
    let settings = setup.settings.iter();
    lines.extend(settings.map(|(key, value)| format!("{key} = {value}")));
    lines.extend(chosen_for("mail", chosen));
    let name = setup.protocol.name();
    lines.push(format!(
        "[server {name}]\nprotocol = {name}\nlisten = {}",
        order.places.plain
    ));
    if let Some(tls) = order.places.tls {
        lines.push(format!("listen = {tls} ssl"));
    }
    if setup.routes {
        let stubs = &order.stage.stubs;
        let (quick, slow) = (stubs.address(Kind::Imap), stubs.address(Kind::Mute));
        lines.push(format!(
            "[backend quick]\nhosts = {quick}\n[backend slow]\nhosts = {slow}\n\
             [routes]\nroute = @slow.test slow\nroute = * quick"
        ));
    }
    let mut text = String::new();
    for line in lines {
        writeln!(text, "{line}").expect("a String takes everything");
    }
    text
}

fn chosen_for(section: &str, chosen: &[Setting]) -> impl Iterator<Item = String> {
    let chosen = chosen.iter().filter(move |one| one.section == section);
    chosen.map(|Setting { key, value, .. }| format!("{key} = {value}"))
}
