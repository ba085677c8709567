//! The asking side of the control socket: finds it, asks, and reads the answer line by line. What is made of
//! the answer for people is the command line's business.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Gid, Group};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Map, Value};

use super::VERSION;
use crate::config::{self, Control};

/// Longest line of an answer, in bytes.
const LONGEST: u64 = 16 * 1024 * 1024;

/// How long the next line of an answer may take: a little longer than the other side gives itself.
const PATIENCE: Duration = Duration::from_secs(70);

/// Where the socket is that this configuration file names. Where nobody has named a file (`None`), and the
/// usual one is not to be read, it is the usual place: who may use the socket need not be able to read the file.
///
/// # Errors
/// For people: there is none, by this configuration.
pub(crate) fn place(config: Option<&Path>) -> Result<PathBuf, String> {
    let file = config.unwrap_or(Path::new(config::USUAL_FILE));
    match config::control_of(file) {
        Ok(Control::At(path)) => Ok(path),
        Ok(Control::Off) => Err(format!("{} says `control = off`", file.display())),
        Err(error) if config.is_some() => {
            Err(format!("{} cannot be read: {error}", file.display()))
        }
        Ok(Control::WhereFolderExists) | Err(_) => Ok(Control::USUAL.into()),
    }
}

/// One line of an answer.
#[derive(Debug)]
pub(crate) enum Said {
    /// One of many.
    Item(Value),
    /// The last, and all went well.
    Done(Value),
    /// The last: it was refused, or failed.
    Refused(Value),
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct Asking {
    lines: BufReader<UnixStream>,
}

impl Asking {
    /// Asks for this command with these members, and passes a file on, if there is one.
    ///
    /// # Errors
    /// For people: nobody is to be reached there.
    pub(crate) fn begin(
        socket: &Path,
        command: &str,
        mut members: Map<String, Value>,
        file: Option<File>,
    ) -> Result<Asking, String> {
        members.insert("postern".to_owned(), VERSION.into());
        members.insert("do".to_owned(), command.into());
        let line = format!("{}\n", Value::Object(members));
        let stream = UnixStream::connect(socket).map_err(|error| unreachable(socket, &error))?;
        let prepared = stream.set_read_timeout(Some(PATIENCE));
        let sent = prepared.and_then(|()| send(&stream, line.as_bytes(), file.as_ref()));
        match sent {
            // It was turned away before it could say anything, and reads why.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(unreachable(socket, &error))
            }
            _ => Ok(Asking {
                lines: BufReader::new(stream),
            }),
        }
    }

    /// The next line.
    ///
    /// # Errors
    /// For people: there is none, or it is none of an answer.
    pub(crate) fn next(&mut self) -> Result<Said, String> {
        let failed = |error: &dyn std::fmt::Display| format!("the answer is not whole: {error}");
        let mut line = Vec::new();
        let mut limited = self.lines.by_ref().take(LONGEST);
        let read = limited.read_until(b'\n', &mut line);
        read.map_err(|error| failed(&error))?;
        if line.is_empty() {
            return Err("the connection was closed without an answer".to_owned());
        }
        let said: Value = serde_json::from_slice(&line).map_err(|error| failed(&error))?;
        Ok(if said.get("error").is_some() {
            Said::Refused(said)
        } else if said.get("ok").is_some() {
            Said::Done(said)
        } else {
            Said::Item(said)
        })
    }

    /// Waits until the process is gone; false if it is still there after that time.
    pub(crate) fn wait_for_end(self, limit: Duration) -> bool {
        let stream = self.lines.into_inner();
        if stream.set_read_timeout(Some(limit)).is_err() {
            return false;
        }
        match (&stream).read(&mut [0]) {
            Ok(n) => n == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

/// Sends the line, which is short enough for the kernel to take it in one piece.
fn send(stream: &UnixStream, line: &[u8], file: Option<&File>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<BorrowedFd<'_>> = file.iter().map(|file| file.as_fd()).collect();
    if !descriptors.is_empty() {
        beside.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    let parts = [IoSlice::new(line)];
    let sent = sendmsg(stream, &parts, &mut beside, SendFlags::NOSIGNAL)?;
    let mut stream = stream;
    stream.write_all(&line[sent..])
}

/// Why nobody is reached there, and what to do.
fn unreachable(socket: &Path, error: &io::Error) -> String {
    let path = socket.display();
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!(
                "there is no control socket {path}: Postern does not run, or has another `control`"
            )
        }
        io::ErrorKind::ConnectionRefused => {
            format!("nobody listens at the control socket {path}: Postern does not run")
        }
        io::ErrorKind::PermissionDenied => {
            let seen = std::fs::metadata(socket).ok();
            let of_group = seen.filter(|seen| seen.mode() & 0o020 != 0);
            let group = of_group.map(|seen| seen.gid());
            let group = group.and_then(|gid| Group::from_gid(Gid::from_raw(gid)).ok().flatten());
            let or_member = match group {
                Some(group) => format!(" or a member of the group {}", group.name),
                None => String::new(),
            };
            format!("you may not use the control socket {path}: be root{or_member}")
        }
        _ => format!("cannot reach the control socket {path}: {error}"),
    }
}
