//! Landlock: what the process may do with files once its configuration is read, whoever has it in hand. The
//! user that it runs as may do less; this takes away what that user could do and Postern never does. The
//! keeper, a process of its own that was started before, is not bound by it. Capabilities and new privileges
//! are the business of `privileges`.
//!
//! The rules hold for the thread that sets them and all that are started later, so they come before the first
//! thread, and also before the files of the configuration are opened to be used: what a reload could not open
//! shows itself at the start. They cannot be widened, and HUP may name files that nobody has heard of yet. So
//! there are two kinds of folders, with everything below them:
//!
//! - where configurations, certificates, libraries and the system's own files live on every machine
//!   ([`SYSTEM`]), and where logs and sockets do ([`LOGS`], [`SOCKETS`]);
//! - those of all that the configuration names now. Files are replaced by renaming and links are turned, so a
//!   rule is for a folder and never for a file: that of the name, that of each link on the way, since a
//!   renewed certificate lies where the link leads then, and that of the file behind them.
//!
//! What stays closed is /home, /root, /tmp, /var/mail, /var/spool, devices, and writing nearly everywhere; no
//! program can be started. A reload that names a file elsewhere fails as a whole, and says why ([`outside`]):
//! where there is a keeper, it opens the file. `landlock = off` is for whom that does not suit.
//!
//! Ports are not confined: the auth server names backends with any port, name servers and collectors of logs
//! have theirs, and a reload may listen anywhere. A list of all ports is no protection, a shorter one breaks
//! somebody's mail. Signals to other processes and abstract Unix sockets of others are closed (ABI 6), the
//! sockets only where the service manager does not listen on one. Of Unix sockets with a file, connecting
//! stays free: the auth server's may be made anew in any folder.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use landlock::{
    ABI, Access, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
};

/// The newest rights that are asked for. What a later ABI could take away was not tried with this program.
const TESTED: ABI = ABI::V6;

/// Where files are read that no configuration names, and where those lie that a reload may name. `/proc` as a
/// whole: a rule for one process's folder goes with its inode when memory is short, and what other
/// processes keep secret there is closed to a confined one anyway (ptrace(2)).
const SYSTEM: &[&str] = &[
    "/etc",
    "/usr",
    "/lib",
    "/lib64",
    "/opt",
    "/srv",
    "/run",
    "/var/lib",
    "/nix/store",
    "/gnu/store",
    "/proc",
    "/sys/fs/cgroup",
    "/sys/devices/system/cpu",
    "/dev/null",
    "/dev/random",
    "/dev/urandom",
];

/// Files of the system that are links to somewhere else on some machines.
const LINKED: &[&str] = &[
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/localtime",
];

/// Variables that name files or folders to the libraries.
const VARIABLES: &[&str] = &[
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "OPENSSL_CONF",
    "OPENSSL_MODULES",
    "LD_LIBRARY_PATH",
    "TZDIR",
    "TZ",
];

/// Where a reload may name a log.
const LOGS: &str = "/var/log";

/// Where a reload may name a Unix socket.
const SOCKETS: &str = "/run";

/// Links here are the system's (/var/run, /lib): what they could lead to next time is no reason to open all
/// that is beside them.
const TOPS: &[&str] = &["/", "/var"];

/// Most links of one name, as path_resolution(7).
const MOST_LINKS: usize = 40;

/// What is done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Use {
    /// It is read.
    Read,
    /// It is appended to, or made; its end is read.
    Log,
    /// A Unix socket is made, and removed again.
    Socket,
    /// It is written anew, and removed at the end.
    Pid,
}

impl Use {
    const ALL: [Use; 4] = [Use::Read, Use::Log, Use::Socket, Use::Pid];

    fn rights(self) -> BitFlags<AccessFs> {
        match self {
            Use::Read => AccessFs::ReadFile | AccessFs::ReadDir,
            Use::Log => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::MakeReg,
            Use::Socket => AccessFs::MakeSock | AccessFs::RemoveFile,
            Use::Pid => {
                AccessFs::WriteFile | AccessFs::MakeReg | AccessFs::Truncate | AccessFs::RemoveFile
            }
        }
    }

    /// For people.
    fn what(self) -> &'static str {
        match self {
            Use::Read => "reading",
            Use::Log => "logs",
            Use::Socket => "sockets",
            Use::Pid => "the pid file",
        }
    }
}

/// What holds since [`confine`].
static HELD: OnceLock<Vec<Rule>> = OnceLock::new();

type Rule = (Use, PathBuf);

/// Confines this thread, and all that it starts, to the system's own files and to what is named here; both
/// for good. Returns what holds, for people.
///
/// # Errors
/// For people: nothing holds.
pub(crate) fn confine(named: &[(Use, &Path)]) -> Result<String, String> {
    let wanted = rules(named);
    let failed = |error: RulesetError| format!("Landlock failed: {error}");
    let (status, held) = enforce(wanted).map_err(failed)?;
    let abi = match status.landlock {
        LandlockStatus::Available {
            effective_abi,
            kernel_abi,
        } => kernel_abi.unwrap_or(effective_abi as i32),
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => {
            let why = "this system has no Landlock (Linux 5.13 or later has it, unless it is switched \
                       off at boot or in a container)";
            return Err(why.to_owned());
        }
    };
    let text = format!("Landlock ABI {abi} ({})", show(&held));
    let _ = HELD.set(held);
    Ok(text)
}

/// Sets the rules, and says which there are: what is not there, or cannot have one, has none.
fn enforce(wanted: Vec<Rule>) -> Result<(RestrictionStatus, Vec<Rule>), RulesetError> {
    let scope = match notifies_abstract_socket() {
        true => Scope::Signal.into(),
        false => Scope::from_all(TESTED),
    };
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(TESTED))?
        .scope(scope)?
        .create()?;
    let mut add = |(purpose, path): &Rule| {
        let Ok(opened) = PathFd::new(path) else {
            return false;
        };
        let rights = match path.is_dir() {
            true => purpose.rights(),
            false => purpose.rights() & AccessFs::from_file(TESTED),
        };
        (&mut ruleset)
            .add_rule(PathBeneath::new(opened, rights))
            .is_ok()
    };
    let held = wanted.into_iter().filter(|rule| add(rule)).collect();
    Ok((ruleset.restrict_self()?, held))
}

/// Whether the service manager is told of us over an abstract socket, as in some containers.
fn notifies_abstract_socket() -> bool {
    let socket = std::env::var_os("NOTIFY_SOCKET");
    socket.is_some_and(|name| name.as_encoded_bytes().starts_with(b"@"))
}

/// Why this file is out of reach, for people; `None` where it is not, or nothing holds.
pub(crate) fn outside(path: &Path, purpose: Use) -> Option<String> {
    let held = HELD.get()?;
    (!is_below(held, path, purpose)).then(|| advice(held, purpose))
}

fn is_below(held: &[Rule], path: &Path, purpose: Use) -> bool {
    let file = real(path);
    let mut of_use = held.iter().filter(|(of, _)| *of == purpose);
    is_device(path) || of_use.any(|(_, folder)| file.starts_with(folder))
}

fn advice(held: &[Rule], purpose: Use) -> String {
    format!(
        "since the start Landlock allows {} only under {}: restart the service to add a folder, or set \
         `landlock = off`",
        purpose.what(),
        folders(held, purpose)
    )
}

/// The rules, each once and none below another of its kind.
fn rules(named: &[(Use, &Path)]) -> Vec<Rule> {
    let mut all: Vec<Rule> = Vec::new();
    let read = |path: &PathBuf| (Use::Read, real(path));
    all.extend(SYSTEM.iter().map(PathBuf::from).map(|path| read(&path)));
    all.extend([(Use::Log, real(Path::new(LOGS)))]);
    all.extend([(Use::Socket, real(Path::new(SOCKETS)))]);
    let linked = LINKED.iter().map(Path::new);
    all.extend(linked.flat_map(|path| folders_of(Use::Read, path)));
    for name in VARIABLES {
        let value = std::env::var_os(name).unwrap_or_default();
        for path in std::env::split_paths(&value).filter(|path| path.is_absolute()) {
            let file = match path.is_dir() {
                true => path.join("file"),
                false => path,
            };
            all.extend(folders_of(Use::Read, &file));
        }
    }
    for (purpose, path) in named {
        match is_device(path) || is_device(&real(path)) {
            true => all.push((*purpose, path.to_path_buf())),
            false => all.extend(folders_of(*purpose, path)),
        }
    }
    all.sort();
    // Folders follow the one above them.
    all.dedup_by(|(purpose, below), (of, above)| purpose == of && below.starts_with(above));
    all
}

/// A log there is a terminal or a pipe, and has no folder that could be opened for writing.
fn is_device(path: &Path) -> bool {
    path.starts_with("/dev") || path.starts_with("/proc")
}

/// Where a file lies, by its name and really; and where one to read may lie once a link was turned.
fn folders_of(purpose: Use, path: &Path) -> Vec<Rule> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut folders: Vec<PathBuf> = path.parent().map(real).into_iter().collect();
    folders.extend(real(&path).parent().map(Path::to_owned));
    if purpose == Use::Read {
        folders.extend(folders_of_links(path));
    }
    folders
        .into_iter()
        .map(|folder| (purpose, folder))
        .collect()
}

/// The folders of all links on the way to a file.
fn folders_of_links(path: PathBuf) -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let mut seen = HashSet::new();
    let mut ahead = vec![path];
    while let Some(path) = ahead.pop() {
        for step in path.ancestors() {
            let (Ok(target), Some(folder)) = (fs::read_link(step), step.parent()) else {
                continue;
            };
            if seen.len() < MOST_LINKS && seen.insert(step.to_owned()) {
                folders.push(real(folder));
                let rest = path.strip_prefix(step).unwrap_or(Path::new(""));
                ahead.push(folder.join(target).join(rest));
            }
        }
    }
    folders.retain(|folder| !TOPS.iter().any(|top| folder == Path::new(top)));
    folders
}

/// The path without links; the file itself need not be there.
fn real(path: &Path) -> PathBuf {
    let folder = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    let found = path.canonicalize().ok();
    found.or_else(folder).unwrap_or_else(|| path.to_owned())
}

fn show(held: &[Rule]) -> String {
    let of_use = |purpose: Use| {
        let folders = folders(held, purpose);
        (!folders.is_empty()).then(|| format!("{} under {folders}", purpose.what()))
    };
    let shown: Vec<String> = Use::ALL.into_iter().filter_map(of_use).collect();
    shown.join("; ")
}

fn folders(held: &[Rule], purpose: Use) -> String {
    let of_use = held.iter().filter(|(of, _)| *of == purpose);
    let folders: Vec<String> = of_use.map(|(_, at)| at.display().to_string()).collect();
    folders.join(", ")
}

/// Says of a file that was denied when it is out of reach.
pub(crate) fn explain(error: io::Error, path: &Path, purpose: Use) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    match outside(path, purpose) {
        Some(why) => io::Error::new(error.kind(), format!("{error}; {why}")),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
    use std::process::Command;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::*;

    /// A folder with these folders in it.
    fn folder(name: &str, inner: &[&str]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("postern-{name}-{}", std::process::id()));
        for inner in inner {
            fs::create_dir_all(root.join(inner)).expect("a folder");
        }
        root.canonicalize().expect("it is there")
    }

    fn append(path: &Path) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        file.write_all(b"x")
    }

    /// What is tried, and whether it went well.
    type Tries = Vec<(&'static str, io::Result<()>)>;

    #[test]
    fn a_confined_thread_can_do_what_was_named_and_nothing_else() {
        let root = folder("confined", &["named", "logs", "sockets", "pid", "other"]);
        let at = |name: &str| root.join(name);
        for file in ["named/key", "other/key", "other/log"] {
            fs::write(at(file), "x").expect("a file");
        }
        let name = format!("postern-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(name).expect("short enough");
        let _outside = UnixListener::bind_addr(&abstract_name).expect("nobody has it");
        let mut process = Command::new("sleep").arg("100").spawn().expect("sleep");
        let pid = Pid::from_raw(process.id().cast_signed());

        // The rules are this thread's alone.
        let tries = || -> (LandlockStatus, Tries, Tries) {
            let (key, log, socket, file) = (
                at("named/key"),
                at("logs/log"),
                at("sockets/socket"),
                at("pid/pid"),
            );
            let named = [
                (Use::Read, &*key),
                (Use::Log, &*log),
                (Use::Socket, &*socket),
                (Use::Pid, &*file),
            ];
            let (status, _) = enforce(rules(&named)).expect("Landlock works");
            let allowed = vec![
                ("read", File::open(&key).map(drop)),
                ("read beside", fs::read_dir(at("named")).map(drop)),
                ("read /etc", File::open("/etc/passwd").map(drop)),
                ("read /proc", fs::read("/proc/self/status").map(drop)),
                ("make a log", append(&log)),
                ("write on", append(&log)),
                ("read a log", File::open(&log).map(drop)),
                ("make another", append(&at("logs/more"))),
                ("make a socket", UnixListener::bind(&socket).map(drop)),
                (
                    "connect to it",
                    UnixStream::connect(&socket).map(drop).or_else(is_refused),
                ),
                ("remove it", fs::remove_file(&socket)),
                ("write the pid", fs::write(&file, "1")),
                ("write it anew", fs::write(&file, "2")),
                ("remove the pid", fs::remove_file(&file)),
                ("serve a port", talk_to_itself()),
            ];
            let forbidden = vec![
                ("read elsewhere", File::open(at("other/key")).map(drop)),
                ("list elsewhere", fs::read_dir(at("other")).map(drop)),
                ("append elsewhere", append(&at("other/log"))),
                ("make elsewhere", append(&at("other/new"))),
                ("write where it reads", append(&key)),
                ("make where it reads", append(&at("named/new"))),
                ("write a device", fs::write("/dev/null", "x")),
                ("truncate a log", File::create(&log).map(drop)),
                ("remove a log", fs::remove_file(&log)),
                ("rename a log", fs::rename(&log, at("logs/old"))),
                ("make a folder", fs::create_dir(at("logs/folder"))),
                ("make a link", symlink("/etc/shadow", at("logs/link"))),
                (
                    "make a socket there",
                    UnixListener::bind(at("logs/socket")).map(drop),
                ),
                (
                    "start a program",
                    Command::new("/bin/true").status().map(drop),
                ),
                (
                    "read its memory",
                    File::open(format!("/proc/{pid}/mem")).map(drop),
                ),
            ];
            (status.landlock, allowed, forbidden)
        };
        let of_others = || -> Tries {
            vec![
                ("kill", kill(pid, Signal::SIGKILL).map_err(io::Error::from)),
                (
                    "abstract",
                    UnixStream::connect_addr(&abstract_name).map(drop),
                ),
            ]
        };
        let (all, scoped) = std::thread::scope(|scope| {
            let thread = scope.spawn(|| (tries(), of_others()));
            thread.join().expect("nothing panics there")
        });
        let (status, allowed, mut forbidden) = all;
        let LandlockStatus::Available { effective_abi, .. } = status else {
            panic!("the tests need a kernel with Landlock: {status:?}");
        };
        if effective_abi >= ABI::V6 {
            forbidden.extend(scoped);
        }
        process.kill().expect("we are not confined");
        process.wait().expect("it was killed");
        fs::remove_dir_all(&root).expect("it is ours");
        for (what, done) in allowed {
            assert!(done.is_ok(), "{what}: {done:?}");
        }
        for (what, done) in forbidden {
            let kind = done.as_ref().map_err(io::Error::kind);
            assert_eq!(kind, Err(io::ErrorKind::PermissionDenied), "{what}");
        }
    }

    /// Nobody listens on it any more.
    fn is_refused(error: io::Error) -> io::Result<()> {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Ok(()),
            _ => Err(error),
        }
    }

    fn talk_to_itself() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        TcpStream::connect(listener.local_addr()?).map(drop)
    }

    #[test]
    fn a_file_to_read_brings_the_folders_of_all_links_to_it() {
        let root = folder("links", &["live", "archive", "sets/1", "used"]);
        let at = |name: &str| root.join(name);
        fs::write(at("archive/key1"), "x").expect("a file");
        fs::write(at("sets/1/key"), "x").expect("a file");
        symlink("../archive/key1", at("live/key")).expect("a link");
        symlink("1", at("sets/current")).expect("a link");
        symlink("../sets/current/key", at("used/key")).expect("a link");
        symlink("loop", at("loop")).expect("a link");
        let of = |name: &str, purpose| {
            let mut folders = folders_of(purpose, &at(name));
            folders.sort();
            folders.dedup();
            let inner = folders.iter().map(|(_, folder)| folder.strip_prefix(&root));
            let inner = inner.map(|folder| folder.expect("below the root").to_owned());
            inner.collect::<Vec<_>>()
        };
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(of("live/key", Use::Read), paths(&["archive", "live"]));
        assert_eq!(
            of("used/key", Use::Read),
            paths(&["sets", "sets/1", "used"])
        );
        assert_eq!(of("used/key", Use::Log), paths(&["sets/1", "used"]));
        assert_eq!(of("not/there", Use::Read), paths(&["not"]));
        assert_eq!(of("loop", Use::Read), paths(&[""]));
        // /lib is a link on most systems, and /var/run on all: nothing beside them is opened.
        for link in ["/lib/file", "/var/run/file"] {
            let folders = folders_of(Use::Read, Path::new(link));
            let tops = folders
                .iter()
                .filter(|(_, at)| TOPS.iter().any(|top| at == Path::new(top)));
            assert_eq!(tops.count(), 0, "{link}");
        }
        fs::remove_dir_all(&root).expect("it is ours");
    }

    #[test]
    fn what_lies_below_no_rule_is_told_with_the_rules() {
        let held = rules(&[
            (Use::Read, Path::new("/data/keys/a")),
            (Use::Log, Path::new("/logs/a")),
        ]);
        let is_below = |path: &str, purpose| super::is_below(&held, Path::new(path), purpose);
        assert!(is_below("/data/keys/b", Use::Read) && is_below("/etc/x/y", Use::Read));
        assert!(is_below("/logs/b", Use::Log) && is_below("/dev/stderr", Use::Log));
        for (path, purpose) in [
            ("/data/b", Use::Read),
            ("/data/keysmore/b", Use::Read),
            ("/logs/b", Use::Read),
            ("/data/keys/b", Use::Log),
            ("/logs/b", Use::Socket),
        ] {
            assert!(!is_below(path, purpose), "{path} {purpose:?}");
        }
        let advice = advice(&held, Use::Log);
        assert!(
            advice.contains("logs only under /logs, /var/log: restart"),
            "{advice}"
        );
    }
}
