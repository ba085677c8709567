//! `auth_file`: the rules for a server whose users stand in a file, and that file as the configuration looks at
//! it. What stands in its lines is `users`.

use std::io;
use std::path::{Path, PathBuf};

use super::check::at;
use super::check_backends::auth_of;
use super::check_tls::source;
use super::draft::{Draft, Drafts};
use super::mistake::Mistake;
use super::source::{self as text, Report, Section};
use super::value::path;
use super::{AuthKind, folder_of, read_text};
use crate::protocol::Protocol;
use crate::sasl::Mechanism;
use crate::secret::Wiped;
use crate::system::keeper;
use crate::tls::LoginFrom;
use crate::users::{self, Users, Wrong};

/// The bytes of a file of users, or why there are none.
///
/// # Errors
/// It cannot be read, which says nothing about what is in it; or it is larger than 64 MiB.
pub(crate) fn read_users(path: &Path) -> Result<Wiped<Vec<u8>>, String> {
    users::read(path)
}

/// Reads the text of a file of users; `backends` are the names that exist.
///
/// # Errors
/// Every mistake, a hundred at most.
pub(crate) fn parse_users(
    path: &Path,
    bytes: Wiped<Vec<u8>>,
    backends: &[&str],
) -> Result<Users, Vec<Mistake>> {
    let mistake = |wrong: Wrong| match wrong.line {
        Some(line) => Mistake::of_line(path, line, wrong.text),
        None => Mistake::of_file(path, wrong.text),
    };
    let users = Users::parse(bytes, &|name| backends.contains(&name));
    users.map_err(|wrong| wrong.into_iter().map(mistake).collect())
}

/// What of a configuration has to be known by whom changes its users, whatever else is wrong with it.
#[derive(Debug)]
pub(crate) struct UserFiles {
    /// Every `auth_file`, each once.
    pub files: Vec<PathBuf>,
    /// `user`
    pub user: Option<String>,
    /// `group`
    pub group: Option<String>,
}

/// The same of this file, which is read by the caller himself.
///
/// # Errors
/// The system's; or the file is larger than a configuration can be.
pub(crate) fn user_files(file: &Path) -> io::Result<UserFiles> {
    let bytes = read_text(std::fs::File::open(file)?)?;
    if bytes.len() > text::MAX_FILE {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let sections = text::read(&bytes, &mut Report::new(String::new()));
    let folder = folder_of(file);
    let values = |key: &'static str| {
        let entries = sections.iter().flat_map(move |section| section.lines(key));
        entries.map(|entry| entry.value.clone())
    };
    let mut files: Vec<PathBuf> = Vec::new();
    for named in values("auth_file").filter_map(|value| path(&value, &folder).ok()) {
        if !files.contains(&named) {
            files.push(named);
        }
    }
    Ok(UserFiles {
        files,
        user: values("user").next(),
        group: values("group").next(),
    })
}

/// Whether a server with a file of users has what it needs, and nothing that contradicts it.
pub(super) fn check_server(
    section: &Section,
    mail: Option<&Section>,
    draft: &Draft,
    protocol: Option<Protocol>,
    report: &mut Report,
) {
    if draft.server.auth_file.is_none() && !draft.has_failed("auth_file") {
        let text = "missing: write auth_file = PATH here or in [mail]";
        report.mistake(at(section, "auth_file"), text);
    }
    if !draft.has_backends {
        let key = match draft.auth {
            Some(_) => "auth",
            None => "auth_file",
        };
        let text = "a file of users needs a [backend NAME] section with hosts = NAME-OR-ADDRESS";
        report.mistake(at(source(section, mail, key), key), text);
    }
    let Some(protocol) = protocol else {
        return;
    };
    let record = protocol.record();
    let (key, listed) = (
        record.auth_directive,
        &draft.server.of_protocol[protocol].auth,
    );
    let names_by_certificate = draft.server.tls.ssl_login_from != LoginFrom::Off;
    let is_decided = |row: &Mechanism| {
        row.method.is_of_password() || (row.is_proven_outside() && names_by_certificate)
    };
    let useless = Mechanism::configurable(protocol)
        .filter(|row| listed.has(row) && !is_decided(row))
        .map(|row| row.word);
    let own = record
        .own_login
        .filter(|_| listed.own_login && record.backend_login.is_optional());
    let useless: Vec<&str> = useless.chain(own).collect();
    if !useless.is_empty() {
        let text = format!(
            "with auth = file nobody can decide about {}: the file has passwords, and certificates \
             prove a login by ssl_login_from alone",
            useless.join(", ")
        );
        report.mistake(at(source(section, mail, key), key), &text);
    }
}

/// Reads the files of users.
pub(super) fn check_files(drafts: &Drafts<'_>, backends: &[&str], report: &mut Report) {
    let has_routes = backends.len() < 2 || drafts.routes.is_some();
    let mut seen: Vec<&Path> = Vec::new();
    for (section, draft) in &drafts.servers {
        let Some(path) = draft.server.auth_file.as_deref() else {
            continue;
        };
        if auth_of(draft) != Some(AuthKind::File) || seen.contains(&path) {
            continue;
        }
        seen.push(path);
        let here = at(source(section, drafts.mail, "auth_file"), "auth_file");
        let shown = path.display();
        let read = read_users(path).map(|bytes| parse_users(path, bytes, backends));
        let users = match read {
            Ok(Ok(users)) => users,
            Ok(Err(mistakes)) => {
                report.mistakes_elsewhere(here.line, mistakes);
                continue;
            }
            Err(text) => {
                report.mistake(here, &format!("{:?}: {text}", shown.to_string()));
                continue;
            }
        };
        if users.len() == 0 {
            let text = format!("{shown} has no users: nobody can log in");
            report.warning(here, &text);
        }
        if users.unrouted() > 0 && !has_routes {
            let text = format!(
                "{} users of {shown} have no backend=, and there are several backends and no \
                 [routes]: they cannot log in",
                users.unrouted()
            );
            report.warning(here, &text);
        }
        if others_may_read(path) {
            let text = format!("everybody on this machine may read {shown}: chmod o= {shown}");
            report.warning(here, &text);
        }
    }
}

fn others_may_read(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    keeper::metadata(path).is_ok_and(|data| data.mode() & 0o007 != 0)
}
