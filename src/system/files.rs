//! Files that others write and that are read again when they change: whether one has changed, and all that
//! is in it. What it means is not known here.

use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::keeper;

/// What a file looked like at one moment; equal as long as it was neither changed nor replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Catches a file rewritten in place within the clock's grain, and `touch -r`.
    changed: (i64, i64),
}

impl Stamp {
    /// That of now, following links; `None` for a file that is not there.
    pub(crate) fn of(path: &Path) -> Option<Stamp> {
        let data = keeper::metadata(path).ok()?;
        Some(Stamp {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }
}

/// A file whose changes are followed: each is judged once, and one that cannot be read is tried again, and told
/// once.
#[derive(Debug)]
pub(crate) struct Followed {
    /// Where it is.
    pub path: PathBuf,
    /// The state of the file that was judged last.
    judged: Option<Stamp>,
    /// Why it could not be read since then, which says nothing about what is in it.
    unreadable: Option<String>,
}

impl Followed {
    /// From its state of now on: to be taken before it is read.
    pub(crate) fn new(path: &Path) -> Followed {
        Followed {
            path: path.to_owned(),
            judged: Stamp::of(path),
            unreadable: None,
        }
    }

    /// What `read` gives of it, if it has changed since that was asked last. `None` is to be done nothing about.
    pub(crate) fn changed<Bytes>(
        &mut self,
        read: impl FnOnce(&Path) -> Result<Bytes, String>,
    ) -> Option<Result<Bytes, String>> {
        let now = Stamp::of(&self.path);
        if self.judged == now {
            self.unreadable = None;
            return None;
        }
        match read(&self.path) {
            Ok(bytes) => {
                self.judged = now;
                self.unreadable = None;
                Some(Ok(bytes))
            }
            Err(error) if self.unreadable.as_ref() == Some(&error) => None,
            Err(error) => {
                self.unreadable = Some(error.clone());
                Some(Err(error))
            }
        }
    }
}

/// Reads a file whole, but at most one byte more than `limit`. Nobody is waited for: a FIFO is not read.
///
/// # Errors
/// The system's, or that it is a FIFO.
pub(crate) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = keeper::open(path)?;
    let data = file.metadata()?;
    if data.file_type().is_fifo() {
        return Err(io::Error::other("it is a FIFO"));
    }
    // Of the right size at once: a vector that grows leaves half as much again behind.
    let size = data.len().min(limit);
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    Ok(bytes)
}
