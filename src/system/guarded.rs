//! Opening files as root for a process that is another user: only where that user could not have put a
//! symbolic link in their place. Used by the keeper, and by `check`, which warns of what it will refuse.
//!
//! A path is followed step by step. Each folder on the way, also those that links lead through, must be one
//! that the user cannot write to: then nothing that was looked at can change under our hands.

use std::collections::VecDeque;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::unistd::{Gid, Uid, User, getgrouplist};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, readlinkat, statat};
use rustix::io::Errno;

/// Most symbolic links of one path, as path_resolution(7).
const MOST_LINKS: usize = 40;

/// Mode of a log that did not exist: logs tell who reads mail from where.
const LOG_MODE: Mode = Mode::from_raw_mode(0o640);

/// Whom files are opened for.
#[derive(Debug)]
pub(crate) struct Served {
    /// The user.
    pub uid: Uid,
    /// The main group.
    pub gid: Gid,
    groups: Vec<Gid>,
}

impl Served {
    /// A user with all its groups.
    pub(crate) fn new(user: &User, gid: Gid) -> Served {
        let groups = CString::new(user.name.as_str())
            .ok()
            .and_then(|name| getgrouplist(&name, gid).ok())
            .unwrap_or_else(|| vec![gid]);
        Served {
            uid: user.uid,
            gid,
            groups,
        }
    }

    /// Whether the user can write to it, or let itself do so. Of an access control list only the mask
    /// is looked at (acl(5)): it may give rights to this user.
    fn may_write(&self, file: &File) -> io::Result<bool> {
        let found = file.metadata()?;
        let of_group = found.mode() & 0o020 != 0
            && (self.groups.contains(&Gid::from_raw(found.gid())) || has_access_list(file));
        Ok(found.uid() == self.uid.as_raw() || found.mode() & 0o002 != 0 || of_group)
    }
}

fn has_access_list(file: &File) -> bool {
    match rustix::fs::fgetxattr_query(file, "system.posix_acl_access") {
        Ok(length) => length > 0,
        Err(Errno::NODATA | Errno::OPNOTSUPP) => false,
        Err(_) => true,
    }
}

/// Why a file is not opened.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The user can write to this folder or file.
    Writable(PathBuf),
    /// The system's answer.
    System(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl From<Errno> for Refusal {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

/// What becomes of a link in the place of the file itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastLink {
    Follow,
    Leave,
}

/// A name in a folder that the user cannot write to; the file need not be there.
#[derive(Debug)]
struct Place {
    folder: File,
    name: OsString,
}

impl Place {
    /// Opens what is a regular file.
    fn open(&self, how: OFlags, mode: Mode) -> Result<File, Refusal> {
        // What is no file must neither block nor become our terminal before that is known.
        let always = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = File::from(openat(&self.folder, &self.name, how | always, mode)?);
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(Errno::INVAL.into()),
        }
    }
}

/// Opens a file for reading; `path` is absolute.
///
/// # Errors
/// It is refused, or the system's.
pub(crate) fn open(path: &Path, served: &Served) -> Result<File, Refusal> {
    let place = find(path, LastLink::Follow, served)?;
    place.open(OFlags::RDONLY, Mode::empty())
}

/// The same for a file by which the user must not be able to ask for more: it must not be able to write to
/// it either.
///
/// # Errors
/// It is refused, or the system's.
pub(crate) fn open_trusted(path: &Path, served: &Served) -> Result<File, Refusal> {
    let file = open(path, served)?;
    match served.may_write(&file)? {
        true => Err(Refusal::Writable(path.to_owned())),
        false => Ok(file),
    }
}

/// Opens a log for appending, or makes it, and gives what is root's to the user. No link is followed in its
/// place, and it must not have a second name.
///
/// # Errors
/// It is refused, or the system's.
pub(crate) fn open_log(path: &Path, served: &Served) -> Result<File, Refusal> {
    let place = find(path, LastLink::Leave, served)?;
    let how = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
    let file = place.open(how, LOG_MODE)?;
    let found = file.metadata()?;
    if found.nlink() != 1 {
        return Err(Errno::MLINK.into());
    }
    if found.uid() == 0 {
        std::os::unix::fs::fchown(&file, Some(served.uid.as_raw()), Some(served.gid.as_raw()))?;
    }
    Ok(file)
}

/// Makes sure that what stands, or is to stand, at a path is out of the user's reach.
///
/// # Errors
/// It is refused, or the system's.
pub(crate) fn check(path: &Path, served: &Served) -> Result<(), Refusal> {
    find(path, LastLink::Leave, served).map(drop)
}

fn find(path: &Path, last_link: LastLink, served: &Served) -> Result<Place, Refusal> {
    let mut ahead = steps(path);
    let mut folder = root(served)?;
    let mut way = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = ahead.pop_front() {
        if name == "/" {
            (folder, way) = (root(served)?, PathBuf::from("/"));
            continue;
        }
        let is_last = ahead.is_empty();
        let kind = match statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => Some(FileType::from_raw_mode(found.st_mode)),
            Err(Errno::NOENT) if is_last => None,
            Err(error) => return Err(error.into()),
        };
        match kind {
            Some(FileType::Symlink) if !is_last || last_link == LastLink::Follow => {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = readlinkat(&folder, &name, Vec::new())?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                let mut further = steps(&target);
                further.append(&mut ahead);
                ahead = further;
            }
            Some(FileType::Directory) => {
                way.push(&name);
                folder = open_folder(&folder, &name)?;
                refuse_writable(&folder, &way, served)?;
            }
            _ if is_last => return Ok(Place { folder, name }),
            _ => return Err(Errno::NOTDIR.into()),
        }
    }
    Err(Errno::ISDIR.into())
}

/// The steps of a path; `/` is one to the top.
fn steps(path: &Path) -> VecDeque<OsString> {
    let steps = path
        .components()
        .filter(|step| *step != Component::CurDir)
        .map(|step| step.as_os_str().to_owned());
    steps.collect()
}

fn root(served: &Served) -> Result<File, Refusal> {
    let top = Path::new("/");
    let folder = File::open(top)?;
    refuse_writable(&folder, top, served)?;
    Ok(folder)
}

fn open_folder(above: &File, name: &OsStr) -> Result<File, Errno> {
    let how = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(above, name, how, Mode::empty()).map(File::from)
}

fn refuse_writable(folder: &File, way: &Path, served: &Served) -> Result<(), Refusal> {
    match served.may_write(folder)? {
        true => Err(Refusal::Writable(way.to_owned())),
        false => Ok(()),
    }
}
