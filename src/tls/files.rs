//! Files of keys and certificates: reading them, and noticing that they have changed.
//! What is in them is `keys` and `verify`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use openssl::x509::X509;
use zeroize::Zeroizing;

use super::error::{Problem, openssl_reason};
use crate::system::keeper;

/// What a set of files looked like at one moment; equal as long as none was changed or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamps(Vec<Option<Stamp>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// Catches a file rewritten in place within the clock's grain, and `touch -r`.
    changed: (i64, i64),
}

impl Stamps {
    /// Takes the stamps of `paths`, following links; a file that is not there has none.
    pub(super) fn of(paths: &[PathBuf]) -> Stamps {
        Stamps(paths.iter().map(|path| stamp(path)).collect())
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let data = keeper::metadata(path).ok()?;
    Some(Stamp {
        device: data.dev(),
        inode: data.ino(),
        size: data.size(),
        modified: (data.mtime(), data.mtime_nsec()),
        changed: (data.ctime(), data.ctime_nsec()),
    })
}

/// Reads a whole file; it is wiped from memory afterwards.
pub(super) fn read(
    directive: &'static str,
    entry: usize,
    path: &Path,
) -> Result<Zeroizing<Vec<u8>>, Problem> {
    match keeper::read(path) {
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
