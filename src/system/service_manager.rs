//! systemd, or whoever speaks like it: the sockets that it hands over at the start, and what it is told
//! while the process runs (sd_notify(3), sd_listen_fds(3)). Where there is none, nothing here does anything.
//!
//! Which socket is for which `listen` line is not decided here.

use std::env;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use sd_notify::NotifyState;

/// How long a service manager may leave unread what it was told before: whoever does not read at all must
/// not keep the process from ending.
const PATIENCE: Duration = Duration::from_millis(300);

/// Longest name of a stored descriptor (sd_pid_notify_with_fds(3)).
const LONGEST_NAME: usize = 255;

/// A socket that was handed over: by a socket unit, or by the store, where the process before left it.
#[derive(Debug)]
pub(crate) struct Passed {
    /// The socket.
    pub socket: OwnedFd,
    /// What it is called there.
    pub name: String,
}

/// The sockets that this process was started with, to be taken once, before anything else is opened: its
/// number could be one of those that are announced.
///
/// # Errors
/// Variables of the environment that contradict each other, or announce what is not open.
pub(crate) fn passed() -> io::Result<Vec<Passed>> {
    let passed = sd_notify::listen_fds_with_names()?;
    Ok(passed
        .map(|(number, name)| Passed {
            socket: owned(number),
            name,
        })
        .collect())
}

fn owned(number: i32) -> OwnedFd {
    #![expect(unsafe_code, reason = "the environment says that it is open, and ours")]
    // SAFETY: sd_listen_fds(3): it was opened for this process, which takes it once.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Whether somebody wants to be told.
pub(crate) fn listens() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some()
}

/// How often it wants to hear that all is well, if it does.
pub(crate) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}

/// The ports are open; also after a reload.
///
/// # Errors
/// It cannot be told; as for all that follow.
pub(crate) fn ready(status: &str) -> io::Result<()> {
    tell(&[NotifyState::Ready, NotifyState::Status(status)])
}

/// The configuration is being read anew.
pub(crate) fn reloading() -> io::Result<()> {
    let now = NotifyState::monotonic_usec_now()?;
    tell(&[NotifyState::Reloading, now])
}

/// Nobody is let in any more.
pub(crate) fn stopping() -> io::Result<()> {
    tell(&[NotifyState::Stopping])
}

/// A line of numbers for `systemctl status`.
pub(crate) fn status(text: &str) -> io::Result<()> {
    tell(&[NotifyState::Status(text)])
}

/// All is well.
pub(crate) fn alive() -> io::Result<()> {
    tell(&[NotifyState::Watchdog])
}

/// Leaves a socket for the process that comes after this one, as far as the unit allows it
/// (`FileDescriptorStoreMax=`). What has the name already is left there too.
pub(crate) fn store(address: &str, socket: BorrowedFd<'_>) -> io::Result<()> {
    let name = name_of(address);
    let states = [NotifyState::FdStore, NotifyState::FdName(&name)];
    tell_with(&states, &[socket.as_raw_fd()])
}

/// Takes back what is stored for an address.
pub(crate) fn forget(address: &str) -> io::Result<()> {
    forget_name(&name_of(address))
}

/// Takes back what is stored under a name.
pub(crate) fn forget_name(name: &str) -> io::Result<()> {
    tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])
}

fn tell(states: &[NotifyState<'_>]) -> io::Result<()> {
    tell_with(states, &[])
}

/// What `sd_notify::notify_with_fds` does without a limit of time.
fn tell_with(states: &[NotifyState<'_>], descriptors: &[i32]) -> io::Result<()> {
    let Some(name) = env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect_addr(&address)?;
    let text: String = states.iter().map(|state| format!("{state}\n")).collect();
    let text = [io::IoSlice::new(text.as_bytes())];
    let rights = [ControlMessage::ScmRights(descriptors)];
    let rights = if descriptors.is_empty() {
        &[][..]
    } else {
        &rights
    };
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &text, rights, flags, None)?;
    Ok(())
}

/// Printable ASCII without colons.
fn name_of(address: &str) -> String {
    let character = |character: char| match character {
        ':' | '/' => '.',
        character if character.is_ascii_graphic() => character,
        _ => '_',
    };
    let name = format!("listen-{address}");
    name.chars().map(character).take(LONGEST_NAME).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_store_takes() {
        assert_eq!(name_of("0.0.0.0:143"), "listen-0.0.0.0.143");
        assert_eq!(name_of("[::1]:143"), "listen-[..1].143");
        assert_eq!(name_of("unix:/run/ü x"), "listen-unix..run.__x");
        assert_eq!(name_of(&"x".repeat(300)).len(), LONGEST_NAME);
    }
}
