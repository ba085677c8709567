//! `postern keeper`: the small process that stays root beside a Postern that has become another user, and
//! opens for it what only root may: files that the configuration names, the configuration itself, logs and
//! addresses. How the two talk is `system::keeper`; which files are out of the user's reach, `system::guarded`.
//!
//! The process that asks is taken for one that an attacker has in hand. It gets nothing that root has not
//! written into the configuration, which is read here, and nothing in whose place its user could have put
//! a link. Nothing from the network comes here. It ends with the process that asks, or at its first word
//! that makes no sense.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};

use nix::unistd::{dup2_stderr, dup2_stdout};
use rustix::net::SocketType;
use rustix::net::sockopt::socket_type;

use crate::config::{self, ListenAddress, Names};
use crate::net::listen::{Beside, bind_socket};
use crate::system::guarded::{self, Refusal, Served};
use crate::system::keeper::{Kind, Request, answer, greet, next_request};
use crate::system::{privileges, threads};

/// Answers what comes over standard input, until nobody is there any more.
///
/// # Errors
/// For people: what keeps it from beginning, or what makes no sense.
pub(crate) fn run(file: &Path, user: String, group: Option<String>) -> Result<(), String> {
    let stdin = io::stdin();
    let socket = stdin.as_fd();
    if socket_type(socket) != Ok(SocketType::SEQPACKET) {
        return Err("the keeper is started by Postern itself".to_owned());
    }
    let system = |error: nix::Error| format!("the keeper cannot begin: {error}");
    privileges::overlook_signals().map_err(system)?;
    privileges::forbid_core_files().map_err(system)?;
    let (user, group) = privileges::target(&Some(user), &group)?
        .ok_or("the keeper is for a Postern that is started as root")?;
    privileges::keep_those_of_keeper()?;
    threads::rename("postern-keeper");
    let mut keeper = Keeper {
        configuration: Configuration {
            file: file.to_owned(),
            known: None,
        },
        served: Served::new(&user, group),
    };
    let mut talk = || -> io::Result<()> {
        leave_output()?;
        greet(socket)?;
        keeper.answer_all(socket)
    };
    talk().map_err(|error| format!("the keeper ends: {error}"))
}

/// From here on nobody reads what would be written there.
fn leave_output() -> io::Result<()> {
    let null = File::options().write(true).open("/dev/null")?;
    dup2_stdout(&null)?;
    Ok(dup2_stderr(&null)?)
}

struct Keeper {
    configuration: Configuration,
    /// The user that the process which asks has become.
    served: Served,
}

struct Configuration {
    file: PathBuf,
    /// What it named when it was read last.
    known: Option<(Stamp, Names)>,
}

/// What a file looked like when it was read.
#[derive(Debug, PartialEq, Eq)]
struct Stamp([i64; 5], u64);

impl From<&Metadata> for Stamp {
    fn from(of: &Metadata) -> Self {
        let times = [of.mtime(), of.mtime_nsec(), of.ctime(), of.ctime_nsec()];
        let [a, b, c, d] = times;
        Self([a, b, c, d, of.size().cast_signed()], of.ino())
    }
}

impl Keeper {
    fn answer_all(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        while let Some(request) = next_request(socket)? {
            let given = self.open(&request).map_err(|refusal| match refusal {
                Refusal::Writable(_) => denied(),
                Refusal::System(error) => error,
            });
            answer(socket, &request, &given)?;
        }
        Ok(())
    }

    fn open(&mut self, request: &Request) -> Result<OwnedFd, Refusal> {
        // Everything hangs on the configuration, so it comes first.
        let names = self.configuration.read(&self.served)?;
        let path = Path::new(OsStr::from_bytes(&request.what));
        let opened: File = match request.kind {
            Kind::Read => guarded::open(named(&names.files, path)?, &self.served)?,
            Kind::Log => guarded::open_log(named(&names.logs, path)?, &self.served)?,
            Kind::Bind => return self.bind(&request.what, Beside::None),
            Kind::BindBeside => return self.bind(&request.what, Beside::OfOurs),
        };
        Ok(opened.into())
    }

    /// A socket of the user's: the system lets only one user's stand side by side.
    fn bind(&mut self, address: &[u8], beside: Beside) -> Result<OwnedFd, Refusal> {
        let names = self.configuration.read(&self.served)?;
        let mut listens = names.listen.iter();
        let listen = listens.find(|listen| listen.address.to_string().as_bytes() == address);
        let listen = listen.ok_or_else(not_named)?;
        if let ListenAddress::Unix(path) = &listen.address {
            guarded::check(path, &self.served)?;
        }
        let (user, group) = (self.served.uid.as_raw(), self.served.gid.as_raw());
        let own = |socket: &_| fchown(socket, Some(user), Some(group));
        Ok(bind_socket(listen, beside, own)?.into())
    }
}

impl Configuration {
    /// What it names now.
    fn read(&mut self, served: &Served) -> Result<&Names, Refusal> {
        let file = guarded::open_trusted(&self.file, served)?;
        let stamp = Stamp::from(&file.metadata()?);
        let known = match self.known.take() {
            Some((of, names)) if of == stamp => (of, names),
            _ => {
                let text = config::read_text(file)?;
                (stamp, config::names(&text, &self.file))
            }
        };
        Ok(&self.known.insert(known).1)
    }
}

/// The name as it stands in the configuration.
fn named<'a>(names: &'a [PathBuf], path: &Path) -> io::Result<&'a Path> {
    let mut names = names.iter();
    let name = names.find(|name| *name == path);
    name.map(PathBuf::as_path).ok_or_else(not_named)
}

fn not_named() -> io::Error {
    io::Error::from_raw_os_error(nix::libc::EPERM)
}

fn denied() -> io::Error {
    io::Error::from_raw_os_error(nix::libc::EACCES)
}
