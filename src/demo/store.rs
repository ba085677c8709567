//! The mail of the demonstration: two users with a few folders each, in memory, gone at the end.
//!
//! Bounded in messages and bytes; passwords are public. Nothing here knows a protocol.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

/// Longest message, in bytes.
pub(super) const MAX_MESSAGE: usize = 5 * 1024 * 1024;
/// Most messages of a user, all folders together.
const MAX_MESSAGES: usize = 1000;
/// Most bytes of a user, all folders together.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// Who may log in; what stands behind an `@` in a login or an address does not matter.
pub(super) const USERS: [User; 2] = [
    User {
        name: "alice",
        password: "wonderland",
    },
    User {
        name: "bob",
        password: "builder",
    },
];

/// The folders that everybody has, the first of which gets new mail, with their special uses
/// (RFC 6154). The others are there because mail programs want to put something into them.
pub(super) const FOLDERS: [(&str, &str); 4] = [
    ("INBOX", ""),
    ("Drafts", "\\Drafts"),
    ("Sent", "\\Sent"),
    ("Trash", "\\Trash"),
];

/// Index of INBOX in `FOLDERS`.
pub(super) const INBOX: usize = 0;

/// A user of the demonstration.
#[derive(Debug)]
pub(super) struct User {
    /// The login.
    pub(super) name: &'static str,
    /// No secret.
    pub(super) password: &'static str,
}

/// Index of a user in `USERS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UserId(usize);

impl UserId {
    /// The user's login.
    pub(super) fn name(self) -> &'static str {
        USERS[self.0].name
    }
}

/// The user whose login or address this is.
pub(super) fn find(address: &[u8]) -> Option<UserId> {
    let local = address.split(|&byte| byte == b'@').next()?;
    USERS
        .iter()
        .position(|user| local.eq_ignore_ascii_case(user.name.as_bytes()))
        .map(UserId)
}

/// The user whose login and password these are.
pub(super) fn log_in(login: &[u8], password: &[u8]) -> Option<UserId> {
    find(login).filter(|id| USERS[id.0].password.as_bytes() == password)
}

/// Everybody's mail.
#[derive(Debug)]
pub(super) struct Store {
    accounts: [Mutex<Account>; USERS.len()],
    /// UIDVALIDITY: nothing outlives the process, so each has its own.
    pub(super) uid_validity: u32,
}

impl Store {
    /// Empty folders.
    pub(super) fn new() -> Self {
        let now = Timestamp::now().as_second();
        Self {
            accounts: std::array::from_fn(|_| Mutex::new(Account::new())),
            uid_validity: u32::try_from(now).unwrap_or(1).max(1),
        }
    }

    /// One user's mail; not to be held while waiting for a peer.
    pub(super) fn account(&self, user: UserId) -> MutexGuard<'_, Account> {
        let account = &self.accounts[user.0];
        account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One user's mail.
#[derive(Debug)]
pub(super) struct Account {
    folders: [Folder; FOLDERS.len()],
}

/// A folder's messages, by ascending UID.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    /// The messages.
    pub(super) messages: Vec<Message>,
    /// UID of the next one.
    pub(super) next_uid: u32,
}

/// A message; its text is shared by all that look at it.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// Unique in its folder.
    pub(super) uid: u32,
    /// What it is marked with.
    pub(super) flags: Flags,
    /// When it came.
    pub(super) received: Timestamp,
    /// Header and body; every line ends in CRLF.
    pub(super) text: Arc<[u8]>,
}

/// The user has as much mail as a demonstration keeps.
#[derive(Debug)]
pub(super) struct Full;

impl Account {
    fn new() -> Self {
        let empty = Folder {
            messages: Vec::new(),
            next_uid: 1,
        };
        Self {
            folders: std::array::from_fn(|_| empty.clone()),
        }
    }

    /// A folder, by its index in `FOLDERS`.
    pub(super) fn folder(&self, folder: usize) -> &Folder {
        &self.folders[folder % FOLDERS.len()]
    }

    /// The same to change flags in.
    pub(super) fn folder_mut(&mut self, folder: usize) -> &mut Folder {
        &mut self.folders[folder % FOLDERS.len()]
    }

    /// Puts a message into a folder and returns its UID.
    ///
    /// # Errors
    /// There is no room.
    pub(super) fn add(
        &mut self,
        folder: usize,
        text: Arc<[u8]>,
        flags: Flags,
        received: Timestamp,
    ) -> Result<u32, Full> {
        let all = || self.folders.iter().flat_map(|folder| &folder.messages);
        let bytes: usize = all().map(|message| message.text.len()).sum();
        if all().count() >= MAX_MESSAGES || bytes + text.len() > MAX_BYTES {
            return Err(Full);
        }
        let folder = self.folder_mut(folder);
        let uid = folder.next_uid;
        folder.next_uid = uid.checked_add(1).ok_or(Full)?;
        folder.messages.push(Message {
            uid,
            flags,
            received,
            text,
        });
        Ok(uid)
    }
}

impl Folder {
    /// The message with this UID.
    pub(super) fn message(&self, uid: u32) -> Option<&Message> {
        let at = self.position(uid)?;
        self.messages.get(at)
    }

    /// The same to change its flags.
    pub(super) fn message_mut(&mut self, uid: u32) -> Option<&mut Message> {
        let at = self.position(uid)?;
        self.messages.get_mut(at)
    }

    /// Removes these messages for good.
    pub(super) fn remove(&mut self, uids: &[u32]) {
        self.messages.retain(|message| !uids.contains(&message.uid));
    }

    fn position(&self, uid: u32) -> Option<usize> {
        self.messages
            .binary_search_by_key(&uid, |message| message.uid)
            .ok()
    }
}

/// A message's text as it is kept: a bare LF becomes CRLF.
pub(super) fn with_crlf(text: &[u8]) -> Arc<[u8]> {
    let mut kept = Vec::with_capacity(text.len() + text.len() / 32);
    let mut before = 0;
    for &byte in text {
        if byte == b'\n' && before != b'\r' {
            kept.push(b'\r');
        }
        kept.push(byte);
        before = byte;
    }
    kept.into()
}

/// The system flags of RFC 3501, section 2.3.2; keywords are not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Flags(u8);

const FLAG_NAMES: [&str; 5] = ["\\Seen", "\\Answered", "\\Flagged", "\\Deleted", "\\Draft"];

impl Flags {
    /// Has been read.
    pub(super) const SEEN: Self = Self(1);
    /// Goes at EXPUNGE.
    pub(super) const DELETED: Self = Self(1 << 3);

    /// The flag of this name in any case; nothing for one that is not kept.
    pub(super) fn named(name: &[u8]) -> Self {
        let at = FLAG_NAMES
            .iter()
            .position(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        at.map_or(Self::default(), |at| Self(1 << at))
    }

    /// Both.
    #[must_use]
    pub(super) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These but not those.
    #[must_use]
    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether all of those are among these.
    pub(super) fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names, separated by spaces.
    pub(super) fn names(self) -> String {
        let set = FLAG_NAMES.iter().enumerate();
        let set = set.filter(|(at, _)| self.0 & (1 << at) != 0);
        let names: Vec<_> = set.map(|(_, name)| *name).collect();
        names.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(account: &mut Account, text: &[u8]) -> Result<u32, Full> {
        account.add(INBOX, text.into(), Flags::default(), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_user_is_found_with_and_without_a_domain() {
        assert_eq!(find(b"ALICE@anywhere.test"), find(b"alice"));
        assert!(find(b"alice").is_some());
        assert_eq!(find(b"carol"), None);
        assert_eq!(find(b""), None);
        assert!(log_in(b"bob", b"builder").is_some());
        assert!(log_in(b"bob", b"wonderland").is_none());
    }

    #[test]
    fn a_full_account_takes_no_more_until_something_is_removed() {
        let mut account = Account::new();
        let large = vec![b'x'; MAX_MESSAGE];
        while add(&mut account, &large).is_ok() {}
        let kept = account.folder(INBOX).messages.len();
        assert_eq!(kept, MAX_BYTES / MAX_MESSAGE);
        account.folder_mut(INBOX).remove(&[1]);
        assert_eq!(add(&mut account, &large).ok(), u32::try_from(kept + 1).ok());
        while add(&mut account, b"").is_ok() {}
        assert_eq!(account.folder(INBOX).messages.len(), MAX_MESSAGES);
    }

    #[test]
    fn every_line_of_a_kept_message_ends_in_crlf() {
        assert_eq!(*with_crlf(b"a\nb\r\n\n\rc"), *b"a\r\nb\r\n\r\n\rc");
    }

    #[test]
    fn flags_have_names() {
        let flags = Flags::named(b"\\seen").with(Flags::named(b"\\Draft"));
        assert_eq!(flags.names(), "\\Seen \\Draft");
        assert!(flags.contains(Flags::SEEN));
        assert_eq!(flags.without(Flags::SEEN).names(), "\\Draft");
        assert_eq!(Flags::named(b"$Forwarded"), Flags::default());
    }
}
