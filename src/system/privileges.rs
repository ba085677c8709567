//! Giving up root once the ports are bound, as a visible list, and making sure that it is gone.

use std::ffi::CString;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Group, Uid, User, geteuid, initgroups, setgid, setgroups, setuid};

/// Whom to become: `user`, and `group` or else the user's own. `None` when not started as root, or when
/// nobody is named: then the process stays who it is.
///
/// # Errors
/// For people: there is no such user or group.
pub(crate) fn target(
    user: &Option<String>,
    group: &Option<String>,
) -> Result<Option<(User, Gid)>, String> {
    let Some(name) = user.as_ref().filter(|_| geteuid().is_root()) else {
        return Ok(None);
    };
    let user = User::from_name(name)
        .map_err(|error| format!("cannot look up user `{name}`: {error}"))?
        .ok_or_else(|| format!("there is no user `{name}`"))?;
    let gid = match group {
        None => user.gid,
        Some(name) => group_id(name)?,
    };
    Ok(Some((user, gid)))
}

/// Becomes this user, for good.
///
/// # Errors
/// For people: the system refused; then nothing may go on.
pub(crate) fn drop_root(user: &User, gid: Gid) -> Result<(), String> {
    let name = &user.name;
    become_user(user, gid).map_err(|error| format!("cannot become user `{name}`: {error}"))?;
    if !user.uid.is_root() && regains_root() {
        return Err(format!(
            "root's rights are still there after becoming `{name}`"
        ));
    }
    Ok(())
}

/// No program that this process could start gains rights by it.
///
/// # Errors
/// For people: the system refused.
pub(crate) fn renounce_new() -> Result<(), String> {
    prctl::set_no_new_privs().map_err(|error| format!("cannot renounce new privileges: {error}"))
}

/// Whether the process has root's rights.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

fn group_id(name: &str) -> Result<Gid, String> {
    let group = Group::from_name(name)
        .map_err(|error| format!("cannot look up group `{name}`: {error}"))?;
    Ok(group
        .ok_or_else(|| format!("there is no group `{name}`"))?
        .gid)
}

/// In this order: once the user has changed, the groups can not.
fn become_user(user: &User, gid: Gid) -> nix::Result<()> {
    setgroups(&[])?;
    if let Ok(name) = CString::new(user.name.as_str()) {
        initgroups(&name, gid)?;
    }
    setgid(gid)?;
    setuid(user.uid)
}

fn regains_root() -> bool {
    setuid(Uid::from_raw(0)).is_ok()
}

/// No core file: there may be passwords in it.
///
/// # Errors
/// The system's; it has little to say here.
pub(crate) fn forbid_core_files() -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_dumpable(false)
}
