//! What another user may do with files: the system itself is asked, in that user's name, on a thread that
//! has taken it for the file system alone (setfsuid(2)).

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid, User, getgrouplist, setfsgid, setfsuid};
use rustix::thread::set_thread_groups;

/// What the user is to be able to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// To read this file.
    Read(PathBuf),
    /// To make files in this folder.
    CreateIn(PathBuf),
}

/// The wishes that the system denies this user, by their place in the list. What is not there is not
/// denied; nor is anything where the process is not root, and cannot ask in another's name.
pub(crate) fn denied(user: &User, group: Gid, wishes: &[Wish]) -> Vec<usize> {
    if !Uid::effective().is_root() || user.uid.is_root() {
        return Vec::new();
    }
    let groups = std::ffi::CString::new(user.name.as_str())
        .ok()
        .and_then(|name| getgrouplist(&name, group).ok())
        .unwrap_or_else(|| vec![group]);
    let ask = || {
        // Root's own groups would open what the user's do not. The C library's call would be the whole
        // process's.
        let groups = groups
            .iter()
            .map(|group| rustix::fs::Gid::from_raw(group.as_raw()));
        if set_thread_groups(&groups.collect::<Vec<_>>()).is_err() {
            return Vec::new();
        }
        setfsgid(group);
        setfsuid(user.uid);
        let wishes = wishes.iter().enumerate();
        let denied = wishes.filter(|(_, wish)| is_denied(wish));
        denied.map(|(place, _)| place).collect()
    };
    // Its name is the thread's alone, and goes with it.
    std::thread::scope(|scope| scope.spawn(ask).join()).unwrap_or_default()
}

fn is_denied(wish: &Wish) -> bool {
    let tried = match wish {
        Wish::Read(file) => open(file, false),
        Wish::CreateIn(folder) => open(folder, true),
    };
    tried.is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// Opens a file for reading, or a nameless one in a folder, which leaves nothing behind.
fn open(path: &Path, in_folder: bool) -> io::Result<()> {
    let flags = match in_folder {
        true => OFlag::O_TMPFILE,
        // A pipe does not block.
        false => OFlag::O_NONBLOCK,
    };
    let mut options = OpenOptions::new();
    options.read(!in_folder).write(in_folder);
    options.custom_flags(flags.bits()).open(path).map(drop)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    #[test]
    fn what_the_system_denies_a_user_is_found() {
        assert!(Uid::effective().is_root(), "start the tests as root");
        let user = User::from_name("nobody").ok().flatten();
        let user = user.expect("every system has the user nobody");
        let root = std::env::temp_dir().join(format!("postern-access-{}", std::process::id()));
        let file = |name: &str, group: Gid, mode: u32| {
            let path = root.join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(&path, "x").expect("a file");
            chown(&path, Some(0), Some(group.as_raw())).expect("we are root");
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("it is ours");
            path
        };
        let (none, own) = (Gid::from_raw(0), user.gid);
        let closed = file("closed/file", none, 0o644);
        let wishes = [
            Wish::Read(file("all", none, 0o644)),
            Wish::Read(file("root", none, 0o600)),
            Wish::Read(file("of-root's-group", none, 0o640)),
            Wish::Read(file("of-its-group", own, 0o640)),
            Wish::Read(closed.clone()),
            Wish::Read(root.join("not-there")),
            Wish::CreateIn(root.clone()),
            Wish::CreateIn(std::env::temp_dir()),
        ];
        fs::set_permissions(
            closed.parent().expect("a folder"),
            Permissions::from_mode(0o700),
        )
        .expect("it is ours");
        assert_eq!(denied(&user, user.gid, &wishes), [1, 2, 4, 6]);
        fs::remove_dir_all(&root).expect("it is ours");
    }
}
