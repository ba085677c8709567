//! systemd, or whoever speaks like it: the sockets that it hands over at the start, and what it is told
//! while the process runs (sd_notify(3), sd_listen_fds(3)). Where there is none, nothing here does anything.
//!
//! Which socket is for which `listen` line is not decided here.

use std::env;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use sd_notify::NotifyState;

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

/// The sockets that this process was started with, to be taken once, before anything else is opened.
///
/// # Errors
/// Variables of the environment that contradict each other.
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
    sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)])
}

/// The configuration is being read anew.
pub(crate) fn reloading() -> io::Result<()> {
    let now = NotifyState::monotonic_usec_now()?;
    sd_notify::notify(&[NotifyState::Reloading, now])
}

/// Nobody is let in any more.
pub(crate) fn stopping() -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Stopping])
}

/// A line of numbers for `systemctl status`.
pub(crate) fn status(text: &str) -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Status(text)])
}

/// All is well.
pub(crate) fn alive() -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Watchdog])
}

/// Leaves a socket for the process that comes after this one, as far as the unit allows it
/// (`FileDescriptorStoreMax=`). What has the name already is left there too.
pub(crate) fn store(address: &str, socket: BorrowedFd<'_>) -> io::Result<()> {
    let name = name_of(address);
    let states = [NotifyState::FdStore, NotifyState::FdName(&name)];
    sd_notify::notify_with_fds(&states, &[socket])
}

/// Takes back what is stored for an address.
pub(crate) fn forget(address: &str) -> io::Result<()> {
    forget_name(&name_of(address))
}

/// Takes back what is stored under a name.
pub(crate) fn forget_name(name: &str) -> io::Result<()> {
    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])
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
