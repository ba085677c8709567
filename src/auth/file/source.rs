//! The file of `auth_file`: its users, as they were read last, and the reading when it has changed. A broken
//! new one leaves the old one in use.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::config::{parse_users, read_users};
use crate::log::Severity;
use crate::system::files::Followed;
use crate::system::memory;
use crate::users::Users;

/// A file of users, which all servers that name it share.
#[derive(Debug)]
pub(crate) struct UserFile {
    path: PathBuf,
    /// Names that its lines can say.
    backends: Vec<String>,
    users: RwLock<Arc<Users>>,
    /// How often it was read again.
    changes: AtomicU64,
    followed: Mutex<Followed>,
}

impl UserFile {
    /// Reads it; `backends` are the names that exist.
    ///
    /// # Errors
    /// It cannot be read, or has a mistake.
    pub(crate) fn open(path: &Path, backends: Vec<String>) -> Result<Self, String> {
        // Its hashes may take hundreds of megabytes for a moment.
        memory::give_large_pieces_back();
        let followed = Followed::new(path);
        let bytes = read_users(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let users =
            parse_users(path, bytes, &names(&backends)).map_err(|wrong| in_words(&wrong))?;
        Ok(Self {
            path: path.to_owned(),
            backends,
            users: RwLock::new(Arc::new(users)),
            changes: AtomicU64::new(0),
            followed: Mutex::new(followed),
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Who is in it now.
    pub(super) fn users(&self) -> Arc<Users> {
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&users)
    }

    /// How often it was read again.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Reads it again if it has changed; what the log is told of that.
    pub(super) fn refresh(&self) -> Option<(Severity, String)> {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = self.path.display();
        let kept = |error: &str| {
            let text = format!("{error}; the old users stay in use");
            Some((Severity::Error, text))
        };
        let bytes = match followed.changed(read_users)? {
            Ok(bytes) => bytes,
            Err(error) => return kept(&format!("{shown}: {error}")),
        };
        match parse_users(&self.path, bytes, &names(&self.backends)) {
            Ok(users) => {
                let text = format!("{shown} was read again: {} users", users.len());
                let new = Arc::new(users);
                *self.users.write().unwrap_or_else(PoisonError::into_inner) = new;
                self.changes.fetch_add(1, Ordering::Release);
                Some((Severity::Notice, text))
            }
            Err(wrong) => kept(&in_words(&wrong)),
        }
    }
}

fn names(backends: &[String]) -> Vec<&str> {
    backends.iter().map(String::as_str).collect()
}

/// All mistakes in one line, for the log.
fn in_words(wrong: &[crate::config::Mistake]) -> String {
    let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    wrong.join("; ")
}
