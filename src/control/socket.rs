//! The control socket's file: made so that nobody can use it before it is his to use, and removed at the end.
//!
//! Its folder may belong to the user that Postern becomes, while Postern is still root. So the file is changed
//! by a descriptor that was opened without following links, and never by its name.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::{Gid, Uid};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, chmod, chownat, fstat, open};
use rustix::process::{Gid as RawGid, Uid as RawUid};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::net::listen::remove_stale;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 64;

/// Who may connect: the user, and the group where one is named. That of the process may be many others' too
/// (nogroup), who shall neither end it nor read along.
const FOR_USER: Mode = Mode::from_raw_mode(0o600);
const FOR_GROUP: Mode = Mode::from_raw_mode(0o660);

/// A socket that listens, and its file.
#[derive(Debug)]
pub(super) struct ControlSocket {
    /// What connections are accepted from.
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// The file itself, whatever stands under its name later.
    file: OwnedFd,
    is_closed: AtomicBool,
}

impl ControlSocket {
    /// Binds and listens. A file that a process left behind which is gone is replaced.
    ///
    /// # Errors
    /// Somebody listens there, the file is no socket, or the system's.
    pub(super) fn bind(path: &Path, group: Option<Gid>) -> io::Result<Self> {
        remove_stale(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let file = open(
            path,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let seen = fstat(&file)?;
        if FileType::from_raw_mode(seen.st_mode) != FileType::Socket {
            return Err(io::Error::other(
                "somebody has put another file in its place",
            ));
        }
        let control = Self {
            listener: UnixListener::from(OwnedFd::from(socket)),
            path: path.to_owned(),
            file,
            is_closed: AtomicBool::new(false),
        };
        control.open_to(group)?;
        // Nobody gets in before this, whatever the file's rights have been so far.
        rustix::net::listen(&control.listener, BACKLOG)?;
        Ok(control)
    }

    /// Gives the file to a user.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn give_to(&self, user: Uid) -> io::Result<()> {
        let user = Some(RawUid::from_raw(user.as_raw()));
        Ok(chownat(&self.file, "", user, None, AtFlags::EMPTY_PATH)?)
    }

    /// Lets a group in besides the user, or nobody.
    ///
    /// # Errors
    /// The system's; most often that the process is not a member of the group.
    pub(super) fn open_to(&self, group: Option<Gid>) -> io::Result<()> {
        let mode = match group {
            None => FOR_USER,
            Some(group) => {
                let group = Some(RawGid::from_raw(group.as_raw()));
                chownat(&self.file, "", None, group, AtFlags::EMPTY_PATH)?;
                FOR_GROUP
            }
        };
        // A descriptor of this kind takes no fchmod.
        let own = format!("/proc/self/fd/{}", self.file.as_fd().as_raw_fd());
        Ok(chmod(own, mode)?)
    }

    /// Whether nobody is to be accepted any more.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Ends accepting, and removes the file, unless another one stands in its place.
    pub(super) fn close(&self) {
        if self.is_closed.swap(true, Ordering::AcqRel) {
            return;
        }
        // Wakes the thread that accepts.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        let own = fstat(&self.file);
        let there = std::fs::symlink_metadata(&self.path);
        if let (Ok(own), Ok(there)) = (own, there)
            && (own.st_dev, own.st_ino) == (there.dev(), there.ino())
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
