//! What the user of `[postern]` will not be able to do with the files that a configuration names, and the
//! keeper will not do for it: they are read and opened again long after root's rights are gone, at a renewal,
//! at HUP and USR1. Nothing is read here.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, User};

use super::ListenAddress;
use super::check::at;
use super::draft::Drafts;
use super::names::{Named, named};
use super::source::{At, Report, Section};
use crate::system::access::{Wish, denied};
use crate::system::confinement::{Use, outside};
use crate::system::guarded::{self, Refusal, Served};
use crate::system::keeper;

/// A log in a folder that is not there could not be opened.
pub(super) fn check_log_folders(drafts: &Drafts<'_>, report: &mut Report) {
    let folder = &drafts.process.folder;
    for section in sections(drafts) {
        for entry in section.lines("error_log") {
            if let Some(Named::Log(log)) = named(entry, folder)
                && let Some(above) = log.parent()
                && is_missing(above)
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

/// One that is closed to us may still be there, for the keeper.
fn is_missing(folder: &Path) -> bool {
    match std::fs::metadata(folder) {
        Ok(found) => !found.is_dir(),
        Err(error) => error.kind() != ErrorKind::PermissionDenied,
    }
}

/// A process that runs has confined itself, and can neither make a log nor a Unix socket in a new folder.
/// What cannot be read says so where it is read; where there is a keeper, it may open either.
pub(super) fn check_confinement(drafts: &Drafts<'_>, report: &mut Report) {
    if keeper::is_there() {
        return;
    }
    let folder = &drafts.process.folder;
    for section in sections(drafts) {
        for entry in &section.entries {
            let why = match named(entry, folder) {
                Some(Named::Log(log)) => outside(&log, Use::Log),
                Some(Named::Listen(listens)) => listens.iter().find_map(|listen| {
                    let ListenAddress::Unix(socket) = &listen.address else {
                        return None;
                    };
                    outside(socket, Use::Socket)
                }),
                Some(Named::Files(_) | Named::Pid(_)) | None => None,
            };
            if let Some(why) = why {
                let here = At {
                    line: entry.line,
                    section: &section.name,
                    key: &entry.key,
                };
                report.mistake(here, &why);
            }
        }
    }
}

/// Warns of each that the keeper will not open either; `file` is the configuration itself.
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
            match named(entry, folder) {
                Some(Named::Files(files)) => {
                    for file in files {
                        wish(here, Wish::Read(file));
                    }
                }
                Some(Named::Log(file) | Named::Pid(file)) => {
                    let above = file.parent().unwrap_or(folder).to_owned();
                    wish(here, Wish::CreateIn(above));
                }
                Some(Named::Listen(_)) | None => {}
            }
        }
    }
    let keeper = OfKeeper::new(&user, group, file);
    for place in denied(&user, group, &wishes) {
        let is_pid = places[place].key == "pid";
        let why = match keeper.refusal(&wishes[place]) {
            // The keeper makes no such file.
            _ if is_pid => String::new(),
            Some(folder) => format!(
                "; as root it is not opened since {} can write to {folder}",
                user.name
            ),
            None => continue,
        };
        let text = denial(&user.name, file, &wishes[place], is_pid);
        report.warning(places[place], &(text + &why));
    }
}

/// What the keeper will say: it is there where the process is started as root, which is taken for granted
/// where `user` is set.
struct OfKeeper {
    served: Served,
    /// Where it refuses everything, because the configuration is within the user's reach.
    all: Option<Refusal>,
}

impl OfKeeper {
    fn new(user: &User, group: Gid, file: &Path) -> OfKeeper {
        let served = Served::new(user, group);
        let all = guarded::open_trusted(&absolute(file), &served).err();
        // One that is only about to be written can still get a good place.
        let all = all.filter(|refusal| matches!(refusal, Refusal::Writable(_)));
        OfKeeper { served, all }
    }

    /// What the user can write to, so that the keeper refuses a wish.
    fn refusal(&self, wish: &Wish) -> Option<String> {
        let refused = match wish {
            Wish::Read(file) => guarded::open(&absolute(file), &self.served).err(),
            Wish::CreateIn(folder) => {
                guarded::check(&absolute(folder).join("log"), &self.served).err()
            }
        };
        match self.all.as_ref().or(refused.as_ref()) {
            Some(Refusal::Writable(path)) => Some(path.display().to_string()),
            Some(Refusal::System(_)) | None => None,
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// What the user may not do, what comes of it, and what to do about it.
fn denial(name: &str, file: &Path, wish: &Wish, is_pid: bool) -> String {
    match wish {
        Wish::Read(path) if path == file => {
            format!("{name} may not read this file, so HUP will fail")
        }
        Wish::Read(path) => format!(
            "{name} may not read {}: once it changes the old one stays in use, and HUP fails; let \
             a group of {name} read it and pass the folders above it",
            path.display()
        ),
        Wish::CreateIn(folder) if is_pid => format!(
            "{name} may not remove it from {} at the end, where it stays empty; give it a folder \
             that belongs to {name}",
            folder.display()
        ),
        Wish::CreateIn(folder) => format!(
            "{name} may not make files in {}: USR1 fails when the log has been moved away; give \
             the log a folder that belongs to {name}",
            folder.display()
        ),
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
