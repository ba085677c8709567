//! What a configuration names on its machine: files that are read again while the process runs, logs,
//! addresses. For who opens them on behalf of the process, and must not need the rest to be right.

use std::path::{Path, PathBuf};

use super::deny::{DenyItem, deny_items};
use super::directives;
use super::listen::{listen, status};
use super::log_target::error_log;
use super::source::{self, Entry, Report, Section};
use super::value::path;
use super::{Listen, folder_of};
use crate::log::LogDestination;

/// Everything that a configuration names.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Itself; certificates, keys, maps and the like.
    pub files: Vec<PathBuf>,
    /// Logs.
    pub logs: Vec<PathBuf>,
    /// Addresses that stand there as such: no host name is looked up.
    pub listen: Vec<Listen>,
}

/// What the text of a configuration names. A line with a mistake names nothing.
pub(crate) fn names(bytes: &[u8], file: &Path) -> Names {
    let sections = match bytes.len() {
        ..=source::MAX_FILE => source::read(bytes, &mut Report::new(String::new())),
        _ => Vec::new(),
    };
    of_sections(&sections, file)
}

/// The same for what was read already.
pub(super) fn of_sections(sections: &[Section], file: &Path) -> Names {
    let folder = folder_of(file);
    let mut names = Names {
        files: vec![file.to_owned()],
        ..Names::default()
    };
    for entry in sections.iter().flat_map(|section| &section.entries) {
        match named(entry, &folder) {
            Some(Named::Files(files)) => names.files.extend(files),
            Some(Named::Log(log)) => names.logs.push(log),
            Some(Named::Listen(listens)) => names.listen.extend(listens),
            Some(Named::Pid(_)) => {}
            None if entry.key == "status" => {
                let status = status(&entry.value, |_| Vec::new()).ok().flatten();
                names.listen.extend(status.map(|status| status.listen));
            }
            None => {}
        }
    }
    names
}

/// What a line names.
pub(super) enum Named {
    /// They are read while the process runs.
    Files(Vec<PathBuf>),
    /// `error_log`.
    Log(PathBuf),
    /// `pid`.
    Pid(PathBuf),
    /// `listen`, without host names.
    Listen(Vec<Listen>),
}

/// What a line names on its machine, if anything.
pub(super) fn named(entry: &Entry, folder: &Path) -> Option<Named> {
    match entry.key.as_str() {
        "pid" => path(&entry.value, folder).ok().map(Named::Pid),
        "error_log" => match error_log(&entry.value, folder).ok()?.destination {
            LogDestination::File(file) => Some(Named::Log(file)),
            LogDestination::Stderr | LogDestination::Syslog(_) => None,
        },
        "deny" => {
            let (items, _) = deny_items(&entry.value, folder).ok()?;
            let file = |item| match item {
                DenyItem::File(file) => Some(file),
                DenyItem::Net(_) => None,
            };
            Some(Named::Files(items.into_iter().filter_map(file).collect()))
        }
        "listen" => {
            let listens = listen(&entry.value, folder, |_| Vec::new(), &mut Vec::new());
            listens.ok().map(Named::Listen)
        }
        key if directives::find(key)?.is_file_to_read() => {
            let file = path(&entry.value, folder).ok()?;
            Some(Named::Files(vec![file]))
        }
        _ => None,
    }
}
