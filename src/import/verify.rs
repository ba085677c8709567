//! What our own parser says about the document: lines it refuses become comments.
//!
//! Files that are named are not read: whether they are there and fit is for `postern check`.

use std::path::Path;

use super::Losses;
use super::translate::lose_servers;
use super::write::{Document, Slot};
use crate::config::{self, Config, Mistake, MistakeKind};
use crate::tls::{Acceptor, Problem, SessionCaches, VerifyClient};

/// Each round loses a line at least, and what only followed from it comes up in the next.
const MAX_ROUNDS: usize = 100;

/// What the file is called while it is looked at.
const FILE: &str = "/import";

/// TLS settings that can be judged without files.
const WITHOUT_FILES: [&str; 4] = [
    "ssl_protocols",
    "ssl_ciphers",
    "ssl_ecdh_curve",
    "ssl_session_cache",
];

/// The text that our parser accepts, and what it warns of, each as `line LINE: …`; an error says why there
/// is none.
pub(super) fn settle(
    document: &mut Document,
    losses: &mut Losses,
) -> Result<(String, Vec<String>), String> {
    for _ in 0..MAX_ROUNDS {
        let servers = &document.sections[2..];
        if servers.iter().all(|server| server.off) {
            return Err("no server could be carried over".to_owned());
        }
        let (text, slots) = document.write();
        let mut remarks = Vec::new();
        let complaints = match config::parse(&text, Path::new(FILE)) {
            Ok(config) => {
                remarks = remarks_of(&config);
                complaints_about_tls(&config, document)
            }
            Err(mistakes) => mistakes
                .iter()
                .map(|mistake| complaint(mistake, &slots))
                .collect::<Result<_, _>>()?,
        };
        if complaints.is_empty() {
            // A lost line may have been what a server could not do without.
            if lose_servers(document, losses) {
                continue;
            }
            return Ok((text, remarks));
        }
        for (slot, reason) in complaints {
            lose(document, slot, &reason, losses);
        }
    }
    Err("too much of it is wrong".to_owned())
}

/// Our parser's warnings, without the name of a file that is not there.
fn remarks_of(config: &Config) -> Vec<String> {
    let file = format!("{FILE}:");
    let warnings = config.warnings.iter();
    warnings
        .map(|warning| format!("line {}", warning.strip_prefix(&file).unwrap_or(warning)))
        .collect()
}

/// Where the text has the mistake, and what to say about it.
fn complaint(mistake: &Mistake, slots: &[Slot]) -> Result<(Slot, String), String> {
    let slot = mistake
        .line
        .and_then(|line| slots.get(line.checked_sub(1)?));
    match slot {
        Some(slot @ (Slot::Title(_) | Slot::Entry(..))) => Ok((*slot, for_the_other_file(mistake))),
        Some(Slot::Other) | None => {
            let text = mistake.without_place();
            Err(format!("what it becomes is refused: {text}"))
        }
    }
}

/// Our parser's words for those who wrote the other file, whose lines are other ones.
fn for_the_other_file(mistake: &Mistake) -> String {
    let text = &mistake.text;
    match &mistake.kind {
        MistakeKind::StandsTwice => {
            "it stands twice, and only the first one is taken; leave one out".to_owned()
        }
        MistakeKind::UnknownAccount => format!(
            "{text}; create it or name another, or Postern keeps the rights it is started with"
        ),
        MistakeKind::UnresolvedName => format!("{text}; write its address"),
        MistakeKind::AddressTaken { address, by } => {
            format!("{address} is taken already by [{by}]")
        }
        MistakeKind::Other => text.clone(),
    }
}

fn lose(document: &mut Document, slot: Slot, reason: &str, losses: &mut Losses) {
    match slot {
        Slot::Entry(section, entry) => {
            let entry = &mut document.sections[section].entries[entry];
            if let Some(origin) = &entry.origin {
                losses.add(origin, reason);
            }
            // A second complaint about the same line has nothing to turn into a comment.
            if !entry.key.is_empty() {
                entry.lose(reason);
            }
        }
        Slot::Title(section) => {
            let section = &mut document.sections[section];
            if let Some(origin) = &section.origin {
                losses.add(origin, reason);
            }
            section.lose(reason);
        }
        Slot::Other => {}
    }
}

/// What the TLS library cannot do, of what can be said without certificates.
fn complaints_about_tls(config: &Config, document: &Document) -> Vec<(Slot, String)> {
    let caches = SessionCaches::default();
    let mut complaints: Vec<(Slot, String)> = Vec::new();
    for server in config.servers.iter().filter(|server| server.has_tls()) {
        let mut settings = server.tls.clone();
        settings.ssl_certificate.clear();
        settings.ssl_certificate_key.clear();
        settings.ssl_stapling_file.clear();
        settings.ssl_session_ticket_key.clear();
        settings.ssl_verify_client = VerifyClient::Off;
        settings.ssl_password_file = None;
        settings.ssl_client_certificate = None;
        settings.ssl_trusted_certificate = None;
        settings.ssl_crl = None;
        let alpn = server.protocol.name();
        let Err(problems) = Acceptor::new(settings, alpn, &server.name, &caches) else {
            continue;
        };
        let problems = problems.into_iter();
        for problem in problems.filter(|problem| WITHOUT_FILES.contains(&problem.directive)) {
            let slot = slot_of(document, &server.name, &problem);
            complaints.extend(slot.map(|slot| (slot, problem.text)));
        }
    }
    complaints.dedup();
    complaints
}

/// The line of a server's own section, or else of `[mail]`.
fn slot_of(document: &Document, server: &str, problem: &Problem) -> Option<Slot> {
    let title = format!("server {server}");
    let titles = [title.as_str(), "mail"];
    titles.into_iter().find_map(|title| {
        let sections = &document.sections;
        let section = sections.iter().position(|section| section.title == title)?;
        let entries = &sections[section].entries;
        let entry = entries
            .iter()
            .position(|entry| entry.key == problem.directive)?;
        Some(Slot::Entry(section, entry))
    })
}
