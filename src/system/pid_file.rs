//! The file of `pid`: written at the start, gone at the end.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, User, fchown};

/// The file of `pid`. At the end it is removed, or emptied where its folder does not allow that.
#[derive(Debug)]
pub(crate) struct PidFile(Option<(PathBuf, File)>);

impl PidFile {
    /// Writes the number of this process into it, if one is wanted.
    ///
    /// # Errors
    /// For people: it cannot be written.
    pub(crate) fn write(path: Option<&Path>) -> Result<PidFile, String> {
        let Some(path) = path else {
            return Ok(PidFile(None));
        };
        let failed = |error| format!("cannot write the pid file {}: {error}", path.display());
        let mut file = File::create(path).map_err(failed)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes())
            .map_err(failed)?;
        Ok(PidFile(Some((path.to_owned(), file))))
    }

    /// Gives it to the user that the process is about to become.
    pub(crate) fn hand_over(&self, user: &User, group: Gid) {
        if let Some((_, file)) = &self.0 {
            // Where it fails the file stays root's, and can still be emptied.
            let _ = fchown(file, Some(user.uid), Some(group));
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some((path, file)) = &self.0
            && std::fs::remove_file(path).is_err()
        {
            let _ = file.set_len(0);
        }
    }
}
