//! Who is not let in at all: `deny` of the configuration, and bans of an operator.
//!
//! A question is answered from memory, by halves and by hash. One thread looks whether files of `deny` have
//! changed. Who asks, what becomes of the connection and of sessions that are there already, is not known
//! here.

mod bans;
mod ranges;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard, Weak};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use crate::config::{DenyItem, TrustedPeer, parse_deny, read_deny};
use crate::log::{Log, Severity};
use crate::net::address::Address;
use crate::system::files::Followed;
use crate::system::threads::spawn;

pub(crate) use bans::{Ban, BanChange, MOST};

use bans::Bans;
use ranges::Ranges;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Block {
    /// `deny` names him.
    Denied,
    /// An operator has banned him.
    Banned,
}

impl Block {
    /// In one word, for the log and as the value of a label.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Banned => "banned",
        }
    }
}

/// All that are not let in. Lives as long as the process.
#[derive(Debug, Default)]
pub(crate) struct Blocklist {
    denied: RwLock<Ranges>,
    bans: RwLock<Bans>,
    sources: Mutex<Sources>,
}

/// Where what is denied comes from.
#[derive(Debug, Default)]
struct Sources {
    nets: Vec<IpNet>,
    files: Vec<DenyFile>,
    log: Option<Log>,
}

/// A file of `deny`, and what was in it when it was read last.
#[derive(Debug)]
struct DenyFile {
    file: Followed,
    nets: Vec<IpNet>,
}

/// What a configuration denies, read and not in use yet.
#[derive(Debug)]
pub(crate) struct Denied {
    sources: Sources,
    ranges: Ranges,
}

impl Denied {
    /// Reads all that `deny` names.
    ///
    /// # Errors
    /// For people: a file cannot be read, or has mistakes.
    pub(crate) fn read(items: &[DenyItem], log: &Log) -> Result<Denied, String> {
        let mut sources = Sources {
            log: Some(log.clone()),
            ..Sources::default()
        };
        for item in items {
            match item {
                DenyItem::Net(net) => sources.nets.push(*net),
                DenyItem::File(path) => sources.files.push(DenyFile::open(path)?),
            }
        }
        let ranges = sources.ranges();
        Ok(Denied { sources, ranges })
    }
}

impl Blocklist {
    /// Why a client is not let in, if it is not. Behind Unix sockets there is nobody to be told apart.
    pub(crate) fn block(&self, client: Address) -> Option<Block> {
        let ip = client.ip()?;
        let denied = self.denied.read().unwrap_or_else(PoisonError::into_inner);
        if denied.contain(ip) {
            return Some(Block::Denied);
        }
        drop(denied);
        let bans = self.bans.read().unwrap_or_else(PoisonError::into_inner);
        bans.contain(ip, Instant::now()).then_some(Block::Banned)
    }

    /// The same for the other end of a connection, before any PROXY header: one that may say who its client is
    /// counts by that client alone.
    pub(crate) fn block_peer(&self, peer: Address, trusted: &[TrustedPeer]) -> Option<Block> {
        let block = self.block(peer)?;
        (!peer.is_trusted(trusted)).then_some(block)
    }

    /// These are denied from now on, and no others.
    pub(crate) fn deny(&self, denied: Denied) {
        let mut sources = self.sources();
        *sources = denied.sources;
        self.set_denied(denied.ranges);
    }

    /// Bans a range without low bits, for a time or without end.
    ///
    /// # Errors
    /// For people: there are too many already.
    pub(crate) fn ban(&self, net: IpNet, time: Option<Duration>) -> Result<(), String> {
        let until = time.and_then(|time| Instant::now().checked_add(time));
        let mut bans = self.held();
        bans.add(net, until)?;
        bans.note(net, BanChange::Banned(until));
        Ok(())
    }

    /// Ends the ban of exactly this range; whether there was one.
    pub(crate) fn unban(&self, net: IpNet) -> bool {
        let mut bans = self.held();
        let was_there = bans.remove(net);
        if was_there {
            bans.note(net, BanChange::Lifted);
        }
        was_there
    }

    /// Others are to be told of bans from now on.
    pub(crate) fn share(&self) {
        self.held().set_shared(Some(()));
    }

    /// Nobody is to be told of bans any longer.
    pub(crate) fn keep_to_itself(&self) {
        self.held().set_shared(None);
    }

    /// What others are to be told.
    pub(crate) fn take_changes(&self) -> Vec<(IpNet, BanChange)> {
        self.held().take_untold()
    }

    /// They could not be told.
    pub(crate) fn keep_changes(&self, changes: Vec<(IpNet, BanChange)>) {
        self.held().keep_untold(changes);
    }

    /// These hold, as others say; returns those that are new here.
    pub(crate) fn learn(&self, bans: Vec<Ban>) -> Vec<IpNet> {
        self.held().learn(bans, Instant::now())
    }

    /// All bans, by address.
    pub(crate) fn bans(&self) -> Vec<Ban> {
        let bans = self.bans.read().unwrap_or_else(PoisonError::into_inner);
        bans.list(Instant::now())
    }

    /// Starts the thread that reads files again when they change; it ends when the list is gone.
    ///
    /// # Errors
    /// The system starts no more threads.
    pub(crate) fn follow_files(self: &Arc<Self>) -> std::io::Result<()> {
        let list = Arc::downgrade(self);
        spawn("deny", move || {
            while look(&list) {
                std::thread::sleep(LOOK);
            }
        })
        .map(drop)
    }

    /// Reads the files again that have changed, and lets go of bans that are over.
    fn refresh(&self) {
        let mut sources = self.sources();
        let Some(log) = sources.log.clone() else {
            return;
        };
        let files = sources.files.iter_mut();
        let news: Vec<News> = files.filter_map(DenyFile::refresh).collect();
        if news.iter().any(Result::is_ok) {
            self.set_denied(sources.ranges());
        }
        drop(sources);
        for news in news {
            let (severity, text) = match news {
                Ok(text) => (Severity::Notice, text),
                Err(error) => {
                    let text = format!("{error}; what it held before stays in use");
                    (Severity::Error, text)
                }
            };
            log.write(severity, file!(), &format!("deny: {text}"), None, None);
        }
        self.held().forget_past(Instant::now());
    }

    fn held(&self) -> RwLockWriteGuard<'_, Bans> {
        self.bans.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_denied(&self, ranges: Ranges) {
        *self.denied.write().unwrap_or_else(PoisonError::into_inner) = ranges;
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the list is still there.
fn look(list: &Weak<Blocklist>) -> bool {
    let list = list.upgrade();
    if let Some(list) = &list {
        list.refresh();
    }
    list.is_some()
}

impl Sources {
    fn ranges(&self) -> Ranges {
        let of_files = self.files.iter().flat_map(|file| &file.nets);
        Ranges::new(self.nets.iter().chain(of_files).copied())
    }
}

impl DenyFile {
    fn open(path: &Path) -> Result<DenyFile, String> {
        let file = Followed::new(path);
        let bytes = read_deny(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let nets = parse(path, &bytes)?;
        Ok(DenyFile { file, nets })
    }

    /// Reads it again if it has changed.
    fn refresh(&mut self) -> Option<News> {
        let changed = self.file.changed(read_deny)?;
        let path = self.file.path.display();
        let nets = changed
            .map_err(|error| format!("{path}: {error}"))
            .and_then(|bytes| parse(&self.file.path, &bytes));
        Some(nets.map(|nets| {
            self.nets = nets;
            format!("{path} was read again, {} entries", self.nets.len())
        }))
    }
}

/// What has become of a file that has changed, for the log: it is in use, or not.
type News = Result<String, String>;

/// The entries of a file; its mistakes in one line, for the log.
fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<IpNet>, String> {
    parse_deny(path, bytes).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        lines.join("; ")
    })
}
