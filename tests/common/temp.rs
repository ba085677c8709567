//! Temporary folders that are gone when the test is.

use std::os::unix::fs::PermissionsExt;
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
        TempDir::within(&env::temp_dir(), name)
    }

    /// The same where only root can pass, and nobody else can write to a folder above it.
    pub(crate) fn of_root(name: &str) -> TempDir {
        TempDir::closed_within(Path::new("/var/lib"), name)
    }

    /// The same where a confined proxy reads nothing, unless its configuration has named the folder.
    pub(crate) fn in_home(name: &str) -> TempDir {
        TempDir::closed_within(Path::new("/root"), name)
    }

    fn closed_within(above: &Path, name: &str) -> TempDir {
        let folder = TempDir::within(above, name);
        let closed = fs::Permissions::from_mode(0o700);
        fs::set_permissions(folder.path(), closed).expect("the folder is ours");
        folder
    }

    fn within(above: &Path, name: &str) -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = above.join(format!("postern-{name}-{}-{number}", process::id()));
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
