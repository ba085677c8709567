//! Where finished lines leave the process: standard error, files, syslog collectors.
//!
//! One line is one system call, so that lines of threads and of other processes do not mix. No call
//! waits, except as a file system makes one wait; what is not taken at once is forgotten.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Gid, Uid, fchown};

use super::LogDestination;
use super::syslog::Collector;

/// Mode of a file that did not exist: logs tell who reads mail from where.
const FILE_MODE: u32 = 0o640;

/// An open destination.
pub(super) enum Output {
    /// Standard error, whatever it is connected to.
    Stderr,
    /// A file, by the name under which it is opened again.
    File { path: PathBuf, file: Mutex<File> },
    /// Datagrams.
    Syslog(Collector),
}

impl Output {
    /// Opens a destination; an error names it.
    pub(super) fn open(destination: &LogDestination) -> Result<Output, String> {
        match destination {
            LogDestination::Stderr => Ok(Output::Stderr),
            LogDestination::File(path) => Ok(Output::File {
                path: path.clone(),
                file: Mutex::new(open_file(path)?),
            }),
            LogDestination::Syslog(syslog) => Collector::open(&syslog.server).map(Output::Syslog),
        }
    }

    /// Opens a file by its name once more; if that fails, the old descriptor stays in use.
    pub(super) fn reopen(&self) -> Result<(), String> {
        let Output::File { path, file } = self else {
            return Ok(());
        };
        let new = open_file(path)?;
        *file.lock().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// Gives a file of root's to the user that the process is about to become. Whose it was before, stays
    /// its owner.
    pub(super) fn hand_over(&self, user: Uid, group: Gid) -> Result<(), String> {
        let Output::File { path, file } = self else {
            return Ok(());
        };
        let file = file.lock().unwrap_or_else(PoisonError::into_inner);
        let is_roots = file
            .metadata()
            .is_ok_and(|meta| meta.is_file() && meta.uid() == 0);
        if !is_roots {
            return Ok(());
        }
        fchown(&*file, Some(user), Some(group))
            .map_err(|error| format!("cannot give log file {} away: {error}", path.display()))
    }

    /// Writes one line, newline included.
    fn write_line(&self, line: &[u8]) {
        match self {
            Output::Stderr => write_stderr(line),
            Output::File { file, .. } => {
                // A full disk or a slow reader must not end a session.
                let _ = file
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .write(line);
            }
            Output::Syslog(collector) => collector.send(line.strip_suffix(b"\n").unwrap_or(line)),
        }
    }
}

fn open_file(path: &Path) -> Result<File, String> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        // Without effect on files; a named pipe must neither block nor become our terminal.
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path)
        .map_err(|error| format!("cannot open log file {}: {error}", path.display()))
}

/// Standard error is shared with whoever started us, so it cannot be made non-blocking: it is asked first.
fn write_stderr(line: &[u8]) {
    let mut stderr = io::stderr().lock();
    let ready = {
        let mut wanted = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        poll(&mut wanted, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    };
    if ready {
        let _ = stderr.write(line);
    }
}

/// simplelog's end of an output: joins what it writes piecemeal into one call a line.
pub(super) struct Sink {
    output: Arc<Output>,
    line: Vec<u8>,
}

impl Sink {
    pub(super) fn new(output: Arc<Output>) -> Sink {
        Sink {
            output,
            line: Vec::new(),
        }
    }
}

impl Write for Sink {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(piece);
        // A line holds no newline but its last byte.
        if self.line.ends_with(b"\n") {
            self.output.write_line(&self.line);
            self.line.clear();
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
