//! What the user of `[postern]` will not be able to do with the files that a configuration names: they are
//! read and opened again long after root's rights are gone, at a renewal, at HUP and USR1. Nothing is read
//! here.

use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, User};

use super::check::at;
use super::directives;
use super::draft::Drafts;
use super::log_target::error_log;
use super::source::{At, Report, Section};
use crate::log::LogDestination;
use crate::system::access::{Wish, denied};

/// A log in a folder that is not there could not be opened.
pub(super) fn check_log_folders(drafts: &Drafts<'_>, report: &mut Report) {
    let folder = &drafts.process.folder;
    for section in sections(drafts) {
        for entry in section.lines("error_log") {
            if let Some(above) = folder_of_log(&entry.value, folder)
                && !above.is_dir()
            {
                let here = At {
                    line: entry.line,
                    ..at(section, "error_log")
                };
                let text = format!("there is no folder {}: make it", above.display());
                report.mistake(here, &text);
            }
        }
    }
}

/// Warns of each; `file` is the configuration itself.
pub(super) fn check(drafts: &Drafts<'_>, file: &Path, report: &mut Report) {
    let Some((user, group)) = account(drafts) else {
        return;
    };
    let folder = &drafts.process.folder;
    let mut places = Vec::new();
    let mut wishes = Vec::new();
    let mut wish = |at, wish| {
        places.push(at);
        wishes.push(wish);
    };
    if let Some(postern) = drafts.postern {
        wish(at(postern, "user"), Wish::Read(file.to_owned()));
    }
    for section in sections(drafts) {
        for entry in &section.entries {
            let here = At {
                line: entry.line,
                section: &section.name,
                key: &entry.key,
            };
            if directives::find(&entry.key).is_some_and(|row| row.is_file_to_read()) {
                wish(here, Wish::Read(folder.join(&entry.value)));
            } else if entry.key == "pid" {
                let above = folder.join(&entry.value);
                wish(
                    here,
                    Wish::CreateIn(above.parent().unwrap_or(folder).to_owned()),
                );
            } else if entry.key == "error_log"
                && let Some(above) = folder_of_log(&entry.value, folder)
            {
                wish(here, Wish::CreateIn(above));
            }
        }
    }
    for place in denied(&user, group, &wishes) {
        let name = &user.name;
        let text = match &wishes[place] {
            Wish::Read(path) if path == file => {
                format!("{name} may not read this file, so HUP will fail")
            }
            Wish::Read(path) => format!(
                "{name} may not read {}: once it changes the old one stays in use, and HUP fails; let \
                 a group of {name} read it and pass the folders above it",
                path.display()
            ),
            Wish::CreateIn(folder) if places[place].key == "pid" => format!(
                "{name} may not remove it from {} at the end, where it stays empty; give it a folder \
                 that belongs to {name}",
                folder.display()
            ),
            Wish::CreateIn(folder) => format!(
                "{name} may not make files in {}: USR1 fails when the log has been moved away; give \
                 the log a folder that belongs to {name}",
                folder.display()
            ),
        };
        report.warning(places[place], &text);
    }
}

/// Whom the process is to become, if the system knows him; `check` complains otherwise.
fn account(drafts: &Drafts<'_>) -> Option<(User, Gid)> {
    let process = &drafts.process.process;
    let user = User::from_name(process.user.as_deref()?).ok()??;
    let group = match &process.group {
        None => user.gid,
        Some(name) => Group::from_name(name).ok()??.gid,
    };
    Some((user, group))
}

fn sections<'a>(drafts: &'a Drafts<'a>) -> impl Iterator<Item = &'a Section> {
    let named = drafts
        .servers
        .iter()
        .chain(&drafts.backends)
        .chain(&drafts.routes);
    let single = drafts.postern.into_iter().chain(drafts.mail);
    single.chain(named.map(|(section, _)| *section))
}

/// The folder of the file that an `error_log` line names, if it names one.
fn folder_of_log(value: &str, folder: &Path) -> Option<PathBuf> {
    match error_log(value, folder).ok()?.destination {
        LogDestination::File(file) => file.parent().map(PathBuf::from),
        LogDestination::Stderr | LogDestination::Syslog(_) => None,
    }
}
