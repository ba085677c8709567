//! Replacing a file at once: whoever reads it finds the old text or the new one, whole, and a crash leaves one
//! of them. Links are followed; owner, group and mode stay what they were.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use nix::unistd::Gid;
use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

/// How often a file may be replaced under our hands before we give up.
const TRIES: u32 = 100;

/// A file that only we replace as long as this is held, as far as others ask for the same lock.
#[derive(Debug)]
pub(crate) struct Replacing {
    /// Without links.
    path: PathBuf,
    /// The file as it is; `None` where there is none yet.
    old: Option<File>,
}

impl Replacing {
    /// Waits for the lock of what is there.
    ///
    /// # Errors
    /// The system's; what is there is no regular file, or a link that leads nowhere.
    pub(crate) fn begin(path: &Path) -> io::Result<Self> {
        for _ in 0..TRIES {
            let (path, old) = open(path)?;
            let Some(file) = &old else {
                return Ok(Self { path, old });
            };
            flock(file, FlockOperation::LockExclusive)?;
            // Who had the lock before may have put another file in its place.
            let (ours, there) = (file.metadata()?, fs::metadata(&path));
            if there.is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino())) {
                return Ok(Self { path, old });
            }
        }
        Err(io::Error::other("it is replaced again and again"))
    }

    /// Where it really is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is a file yet.
    pub(crate) fn is_there(&self) -> bool {
        self.old.is_some()
    }

    /// Puts this text in its place. A new file is readable for us alone, or for this group too.
    ///
    /// # Errors
    /// The system's; the old file is untouched then.
    pub(crate) fn finish(self, text: &[u8], group: Option<Gid>) -> io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = folder.join(format!(".{name}.{}", std::process::id()));
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        let written = self
            .write(&mut file, text, group)
            .and_then(|()| self.rename(&temporary));
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        File::open(folder)?.sync_all()
    }

    /// A new file takes nobody's place: who has made one meanwhile would lose what is in it.
    fn rename(&self, temporary: &Path) -> io::Result<()> {
        if self.old.is_some() {
            return fs::rename(temporary, &self.path);
        }
        let renamed = renameat_with(CWD, temporary, CWD, &self.path, RenameFlags::NOREPLACE);
        match renamed {
            Err(Errno::EXIST) => Err(io::Error::other(
                "somebody has made it meanwhile: try again",
            )),
            // A file system that cannot say so.
            Err(Errno::INVAL) => fs::rename(temporary, &self.path),
            renamed => Ok(renamed?),
        }
    }

    fn write(&self, file: &mut File, text: &[u8], group: Option<Gid>) -> io::Result<()> {
        let mode = match (&self.old, group) {
            (Some(old), _) => {
                let (old, new) = (old.metadata()?, file.metadata()?);
                if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                    fchown(&*file, Some(old.uid()), Some(old.gid()))?;
                }
                old.mode() & 0o7777
            }
            (None, Some(group)) => {
                fchown(&*file, None, Some(group.as_raw()))?;
                0o640
            }
            (None, None) => 0o600,
        };
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(text)?;
        file.sync_all()
    }
}

/// The file, where it really is; a new one has to have a folder.
fn open(path: &Path) -> io::Result<(PathBuf, Option<File>)> {
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if fs::symlink_metadata(path).is_ok() {
                return Err(io::Error::new(
                    error.kind(),
                    "it is a link that leads nowhere",
                ));
            }
            let path = std::path::absolute(path)?;
            let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(error);
            };
            return Ok((folder.canonicalize()?.join(name), None));
        }
        Err(error) => return Err(error),
    };
    if !fs::metadata(&real)?.is_file() {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            "it is no regular file",
        ));
    }
    let file = File::open(&real)?;
    Ok((real, Some(file)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("postern-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
        Replacing::begin(path)?.finish(text, None)
    }

    #[test]
    fn a_link_is_followed_and_what_it_leads_to_keeps_owner_and_mode() {
        let folder = folder("replace");
        let (link, target) = (folder.join("link"), folder.join("target"));
        symlink("target", &link).expect("a link");
        assert!(replace(&link, b"x").is_err());
        fs::write(&target, "old").expect("a file");
        chown(&target, Some(7), Some(8)).expect("the tests run as root");
        fs::set_permissions(&target, Permissions::from_mode(0o640)).expect("it is ours");
        replace(&link, b"new").expect("possible");
        assert!(
            fs::symlink_metadata(&link)
                .expect("it is there")
                .is_symlink()
        );
        assert_eq!(fs::read(&target).expect("it is there"), b"new");
        let data = fs::metadata(&target).expect("it is there");
        assert_eq!(
            (data.uid(), data.gid(), data.mode() & 0o7777),
            (7, 8, 0o640)
        );
        let new = folder.join("new");
        replace(&new, b"x").expect("possible");
        assert_eq!(
            fs::metadata(&new).expect("it is there").mode() & 0o7777,
            0o600
        );
        Replacing::begin(&folder.join("group"))
            .and_then(|replacing| replacing.finish(b"x", Some(Gid::from_raw(8))))
            .expect("possible");
        let data = fs::metadata(folder.join("group")).expect("it is there");
        assert_eq!((data.gid(), data.mode() & 0o7777), (8, 0o640));
        assert!(replace(&folder, b"x").is_err());
        // Nothing is left beside them.
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 4);
        fs::remove_dir_all(&folder).expect("it is ours");
    }

    #[test]
    fn none_of_many_changes_at_once_is_lost() {
        let folder = folder("replace-many");
        let file = folder.join("file");
        fs::write(&file, "").expect("a file");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let replacing = Replacing::begin(&file).expect("possible");
                    let mut text = fs::read(&file).expect("it is there");
                    text.push(b'x');
                    // Threads of one process would have one temporary name: the lock keeps them apart.
                    replacing.finish(&text, None).expect("possible");
                });
            }
        });
        assert_eq!(fs::read(&file).expect("it is there"), b"xxxxxxxx");
        fs::remove_dir_all(&folder).expect("it is ours");
    }

    #[test]
    fn a_new_file_does_not_take_the_place_of_one_that_was_made_meanwhile() {
        let folder = folder("twice");
        let file = folder.join("users");
        let [first, second] = [0, 1].map(|_| Replacing::begin(&file).expect("nothing is there"));
        first.finish(b"anna", None).expect("the folder is ours");
        let late = second.finish(b"bert", None).expect_err("it is there");
        assert!(late.to_string().contains("try again"), "{late}");
        let text = fs::read(&file).expect("it is there");
        let left = fs::read_dir(&folder).expect("it is ours").count();
        fs::remove_dir_all(&folder).expect("it is ours");
        assert_eq!((&text[..], left), (&b"anna"[..], 1));
    }
}
