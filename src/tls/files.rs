//! Files of keys and certificates: reading them, and noticing that they have changed.
//! What is in them is `keys` and `verify`.

use std::path::{Path, PathBuf};

use openssl::x509::X509;
use zeroize::Zeroizing;

use super::error::{Problem, openssl_reason};
use crate::system::files::{self, Stamp};

/// Largest file, in bytes: bundles of all public authorities have less than a tenth of it.
const MOST: u64 = 64 * 1024 * 1024;

/// What a set of files looked like at one moment; equal as long as none was changed or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamps(Vec<Option<Stamp>>);

impl Stamps {
    /// Takes the stamps of `paths`, following links; a file that is not there has none.
    pub(super) fn of(paths: &[PathBuf]) -> Stamps {
        Stamps(paths.iter().map(|path| Stamp::of(path)).collect())
    }
}

/// How far changes of a set of files have been followed.
#[derive(Debug)]
pub(super) struct Seen {
    /// As they were when what is in use was read.
    used: Stamps,
    /// As they were when that failed last, and why.
    failed: Option<(Stamps, String)>,
}

impl Seen {
    /// What is in use was read from files with these stamps.
    pub(super) fn new(used: Stamps) -> Seen {
        Seen { used, failed: None }
    }

    /// Calls `take` if the files have changed since it succeeded last; whether it was and did. A failure may
    /// be the system's, without a descriptor say, so that it is tried again, but told once.
    pub(super) fn refresh(
        &mut self,
        paths: &[PathBuf],
        take: impl FnOnce() -> Result<(), String>,
    ) -> Result<bool, String> {
        let now = Stamps::of(paths);
        if self.used == now {
            self.failed = None;
            return Ok(false);
        }
        let Err(error) = take() else {
            *self = Seen::new(now);
            return Ok(true);
        };
        let failed = Some((now, error.clone()));
        match self.failed == failed {
            true => Ok(false),
            false => {
                self.failed = failed;
                Err(error)
            }
        }
    }
}

/// Reads a whole file; it is wiped from memory afterwards.
pub(super) fn read(
    directive: &'static str,
    entry: usize,
    path: &Path,
) -> Result<Zeroizing<Vec<u8>>, Problem> {
    match files::read(path, MOST) {
        Ok(bytes) => Ok(Zeroizing::new(bytes)),
        Err(error) => Err(Problem::at(
            directive,
            entry,
            format!("cannot read \"{}\": {error}", path.display()),
        )),
    }
}

/// Reads all certificates of a PEM file, at least one.
pub(super) fn read_certificates(
    directive: &'static str,
    entry: usize,
    path: &Path,
) -> Result<Vec<X509>, Problem> {
    let pem = read(directive, entry, path)?;
    match X509::stack_from_pem(&pem) {
        Ok(certificates) if certificates.is_empty() => Err(Problem::at(
            directive,
            entry,
            format!("no PEM certificate in \"{}\"", path.display()),
        )),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(Problem::at(
            directive,
            entry,
            format!(
                "cannot read the certificates in \"{}\": {}",
                path.display(),
                openssl_reason(&error)
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_read_is_tried_again_and_told_once() {
        let path = std::env::temp_dir().join(format!("postern-seen-{}", std::process::id()));
        let paths = [path.clone()];
        std::fs::write(&path, "old").expect("a file");
        let mut seen = Seen::new(Stamps::of(&paths));
        let mut refresh =
            |result: Result<(), &str>| seen.refresh(&paths, || result.map_err(str::to_owned));
        assert_eq!(refresh(Err("it has not changed")), Ok(false));
        std::fs::write(&path, "newer").expect("a file");
        assert_eq!(refresh(Err("no file left")), Err("no file left".into()));
        assert_eq!(refresh(Err("no file left")), Ok(false));
        assert_eq!(refresh(Ok(())), Ok(true));
        assert_eq!(refresh(Err("it has not changed")), Ok(false));
        std::fs::remove_file(&path).expect("the file goes");
    }
}
