//! Temporary folders that are gone when the test is.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use super::janitor;

/// A folder of its own, open to all users (servers run as theirs), removed on drop.
pub(crate) struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// Makes the folder; `name` is part of its name.
    pub(crate) fn new(name: &str) -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("postern-{name}-{}-{number}", process::id()));
        fs::create_dir_all(&path).expect("a temporary folder can be made");
        janitor::remove_later(&path);
        TempDir { path }
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file into the folder and says where it is.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let file = self.path.join(name);
        fs::write(&file, content).expect("a file can be written to the temporary folder");
        file
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What cannot be removed now, the janitor removes at the end.
        drop(fs::remove_dir_all(&self.path));
    }
}
