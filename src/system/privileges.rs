//! Giving up root once the ports are bound, as a visible list, and making sure that it is gone; what of it
//! the keeper keeps, and which capabilities a process keeps that stays who it is.

use std::ffi::CString;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{
    Gid, Group, Uid, User, geteuid, getgroups, initgroups, setgid, setgroups, setuid,
};
use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// What the keeper does with root's rights: it opens what is anybody's, gives logs and sockets away, and binds
/// ports below 1024.
const OF_KEEPER: CapabilitySet = CapabilitySet::DAC_OVERRIDE
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// What a process has a use for that stays who it is, root or a user who was given them: ports below 1024,
/// files of others, and the filter of a listener that is about to close, which some kernels refuse to others.
const OF_SERVICE: CapabilitySet = CapabilitySet::NET_BIND_SERVICE
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH);

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

/// Stays root with these rights alone, for good.
///
/// # Errors
/// For people: the system refused; then nothing may go on.
pub(crate) fn keep_those_of_keeper() -> Result<(), String> {
    let failed = |error: String| format!("cannot give up what the keeper has no use for: {error}");
    setgroups(&[]).map_err(|error| failed(error.to_string()))?;
    bound(OF_KEEPER).map_err(|error| failed(error.to_string()))?;
    keep(OF_KEEPER).map_err(|error| failed(error.to_string()))?;
    renounce_new()
}

/// Becomes a member of this group as well, where the process is root: what it makes it may give to the group then,
/// also without the capability for that (chown(2)). To be called before the first thread.
///
/// # Errors
/// For people: there is no such group, or the system refused.
pub(crate) fn join(group: &str) -> Result<(), String> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let gid = group_id(group)?;
    let joined = getgroups().and_then(|mut groups| {
        groups.push(gid);
        setgroups(&groups)
    });
    joined.map_err(|error| format!("cannot join the group `{group}`: {error}"))
}

/// Gives up the capabilities that this process has no use for. One that is about to become another user needs
/// root's until then, and has none afterwards (capabilities(7)). Holds for this thread and those that it starts.
///
/// # Errors
/// For people: the system refused; then nothing may go on.
pub(crate) fn limit_capabilities(becomes: Option<&User>) -> Result<(), String> {
    let (bounding, permitted) = match becomes {
        Some(user) if !user.uid.is_root() => (CapabilitySet::empty(), CapabilitySet::all()),
        Some(_) | None => (OF_SERVICE, OF_SERVICE),
    };
    let limit = || bound(bounding).and_then(|()| keep(permitted));
    limit().map_err(|error| format!("cannot give up capabilities: {error}"))
}

/// The capabilities that this thread can use, for people: their names in capabilities(7), in lower case.
pub(crate) fn show_capabilities() -> String {
    let own = capabilities(None).map(|sets| sets.permitted);
    let own = own.unwrap_or(CapabilitySet::empty());
    let mut names: Vec<String> = own
        .iter_names()
        .map(|(name, _)| name.to_lowercase())
        .collect();
    if names.is_empty() {
        names.push("none".to_owned());
    }
    names.join(" ")
}

/// Takes all others out of the bounding set: no program could give them back.
fn bound(kept: CapabilitySet) -> Result<(), Errno> {
    let own = capabilities(None)?.permitted;
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if kept.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            // What this kernel does not know, and what a container has taken away already.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(Errno::PERM) if !own.contains(CapabilitySet::SETPCAP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Gives up all others. Where there are none capset(2) is not called: filters of system calls refuse it, or kill
/// for it. The inheritable ones may stay then, which give nothing to a program without new privileges.
fn keep(kept: CapabilitySet) -> Result<(), Errno> {
    clear_ambient_capability_set()?;
    let own = capabilities(None)?.permitted;
    if kept.contains(own) {
        return Ok(());
    }
    let kept = own.intersection(kept);
    set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )
}

/// Ends by no signal that is meant for somebody else: a terminal, a service manager and `pkill` send them to
/// all processes of a name or a group.
///
/// # Errors
/// The system's.
pub(crate) fn overlook_signals() -> nix::Result<()> {
    let signals = [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ];
    // Blocked for good is as much as ignored.
    SigSet::from_iter(signals).thread_block()
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
