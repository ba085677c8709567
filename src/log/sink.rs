//! Where finished lines leave the process: standard error, files, syslog collectors.
//!
//! One line is one system call, so that lines of threads and of other processes do not mix. No call
//! waits, except as a file system makes one wait; what is not taken at once is forgotten.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Gid, Uid, fchown};

use super::LogDestination;
use super::syslog::Collector;
use crate::system::keeper;

/// Mode of a file that did not exist: logs tell who reads mail from where.
const FILE_MODE: u32 = 0o640;

/// An open destination.
pub(super) enum Output {
    /// Standard error, whatever it is connected to.
    Stderr,
    /// A file, by the name under which it is opened again.
    File { path: PathBuf, file: Mutex<LogFile> },
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
                file: Mutex::new(LogFile::open(path)?),
            }),
            LogDestination::Syslog(syslog) => Collector::open(&syslog.server).map(Output::Syslog),
        }
    }

    /// Opens a file by its name once more; if that fails, the old descriptor stays in use.
    pub(super) fn reopen(&self) -> Result<(), String> {
        let Output::File { path, file } = self else {
            return Ok(());
        };
        let new = LogFile::open(path)?;
        *lock(file) = new;
        Ok(())
    }

    /// Gives a file of root's to the user that the process is about to become. Whose it was before, stays
    /// its owner.
    pub(super) fn hand_over(&self, user: Uid, group: Gid) -> Result<(), String> {
        let Output::File { path, file } = self else {
            return Ok(());
        };
        let lines = lock(file);
        let file = &lines.file;
        let is_roots = file
            .metadata()
            .is_ok_and(|meta| meta.is_file() && meta.uid() == 0);
        if !is_roots {
            return Ok(());
        }
        fchown(file, Some(user), Some(group))
            .map_err(|error| format!("cannot give log file {} away: {error}", path.display()))
    }

    /// Writes one line, newline included.
    fn write_line(&self, line: &[u8]) {
        match self {
            Output::Stderr => write_stderr(line),
            Output::File { file, .. } => {
                let LogFile { file, ends } = &mut *lock(file);
                ends.write(file, line);
            }
            Output::Syslog(collector) => collector.send(line.strip_suffix(b"\n").unwrap_or(line)),
        }
    }
}

fn lock<T>(lines: &Mutex<T>) -> MutexGuard<'_, T> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a file ends that may have taken only a part of a line: its disk was full, say. The rest of that line
/// is forgotten, and the next one begins with a line end, so that it is not joined to the half.
#[derive(Debug, Default)]
struct LineEnds {
    is_in_line: bool,
}

impl LineEnds {
    const fn new() -> LineEnds {
        LineEnds { is_in_line: false }
    }

    fn write(&mut self, to: &mut impl Write, line: &[u8]) {
        let behind_half = self.is_in_line.then(|| [b"\n", line].concat());
        let line = behind_half.as_deref().unwrap_or(line);
        // A full disk or a slow reader must not end a session.
        let taken = to.write(line).unwrap_or(0);
        if taken > 0 {
            self.is_in_line = line[taken - 1] != b'\n';
        }
    }
}

/// A file that is appended to, line by line.
pub(super) struct LogFile {
    file: File,
    ends: LineEnds,
}

impl LogFile {
    fn open(path: &Path) -> Result<LogFile, String> {
        let file = open_file(path)?;
        let is_in_line = ends_in_half(path, &file);
        Ok(LogFile {
            file,
            ends: LineEnds { is_in_line },
        })
    }
}

/// Whether a file that was there before ends in the half of a line. One that we may not read is taken for
/// whole.
fn ends_in_half(path: &Path, opened: &File) -> bool {
    let is_file = opened.metadata().is_ok_and(|meta| meta.is_file());
    let last = || {
        let mut file = File::open(path).ok()?;
        file.seek(SeekFrom::End(-1)).ok()?;
        let mut byte = [0];
        file.read_exact(&mut byte).ok()?;
        Some(byte[0])
    };
    is_file && last().is_some_and(|byte| byte != b'\n')
}

fn open_file(path: &Path) -> Result<File, String> {
    let opened = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        // Without effect on files; a named pipe must neither block nor become our terminal.
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path);
    keeper::or_log(opened, path)
        .map_err(|error| format!("cannot open log file {}: {error}", path.display()))
}

/// Standard error is shared with whoever started us, so it cannot be made non-blocking: it is asked first.
fn write_stderr(line: &[u8]) {
    static ENDS: Mutex<LineEnds> = Mutex::new(LineEnds::new());
    let mut stderr = io::stderr().lock();
    let ready = {
        let mut wanted = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        poll(&mut wanted, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    };
    if ready {
        lock(&ENDS).write(&mut stderr, line);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for so many bytes.
    struct Disk {
        held: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.held.extend_from_slice(&bytes[..taken]);
            self.room -= taken;
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_behind_half_a_line_begins_with_a_line_end() {
        let mut ends = LineEnds::new();
        let mut disk = Disk {
            held: Vec::new(),
            room: 9,
        };
        for line in [&b"first\n"[..], b"second\n", b"third\n"] {
            ends.write(&mut disk, line);
        }
        disk.room = 1;
        ends.write(&mut disk, b"fourth\n");
        disk.room = 100;
        ends.write(&mut disk, b"fifth\n");
        ends.write(&mut disk, b"sixth\n");
        assert_eq!(disk.held, b"first\nsec\nfifth\nsixth\n");
    }

    #[test]
    fn a_file_that_ends_in_half_a_line_is_gone_on_with_on_a_new_one() {
        let path = std::env::temp_dir().join(format!("postern-half-{}", std::process::id()));
        std::fs::write(&path, "half").expect("a file");
        let destination = LogDestination::File(path.clone());
        let output = Output::open(&destination).expect("it opens");
        output.write_line(b"whole\n");
        output.reopen().expect("it opens again");
        output.write_line(b"next\n");
        let text = std::fs::read_to_string(&path).expect("it is there");
        std::fs::remove_file(&path).expect("it goes");
        assert_eq!(text, "half\nwhole\nnext\n");
    }
}
