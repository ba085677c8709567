//! The states after login (RFC 3501, section 3): commands about the messages of the open folder.
//!
//! A client counts messages by numbers, which may change only when it is told: the session keeps the
//! client's view of the open folder and says at the end of each command how it differs from the truth.

use std::sync::Arc;
use std::time::Duration;

use super::command::{Bad, Cursor, Set};
use super::fetch::{self, Item};
use super::folders::{FULL, NO_FOLDER, folder_named, list};
use super::search::{self, MessageNumbers};
use super::{Answer, Trouble, any_time};
use crate::demo::peer::Peer;
use crate::demo::store::{Flags, Message, Store, UserId};

/// How often IDLE looks for something new.
const LOOK: Duration = Duration::from_millis(300);
/// Looks of one IDLE: half an hour.
const LOOKS: u32 = 6000;

/// Answers longer than this go out in pieces.
const PIECE: usize = 256 * 1024;

const READ_ONLY: &str = "NO [READ-ONLY] the folder is open for reading only";

/// One client after its login.
pub(super) struct Session<'a> {
    pub(super) store: &'a Store,
    pub(super) user: UserId,
    pub(super) open: Option<Open>,
}

/// The open folder as the client knows it.
pub(super) struct Open {
    /// Index in `FOLDERS`.
    pub(super) folder: usize,
    /// Opened by EXAMINE.
    pub(super) read_only: bool,
    /// UIDs and flags by message number, which counts from 1.
    pub(super) known: Vec<(u32, Flags)>,
    /// UIDs from this one on are news.
    pub(super) next_uid: u32,
}

impl<'a> Session<'a> {
    pub(super) fn new(store: &'a Store, user: UserId) -> Self {
        Self {
            store,
            user,
            open: None,
        }
    }

    /// Does what a command says.
    pub(super) fn run(&mut self, peer: &mut Peer, word: &str, mut cursor: Cursor<'_>) -> Answer {
        if !cursor.0.is_empty() && word != "ID" {
            cursor.space()?;
        }
        match word {
            "SELECT" => self.select(peer, cursor, false),
            "EXAMINE" => self.select(peer, cursor, true),
            "LIST" | "LSUB" => list(peer, word, cursor),
            "NAMESPACE" => {
                peer.send("* NAMESPACE ((\"\" \"/\")) NIL NIL\r\n")?;
                Ok("OK NAMESPACE completed".into())
            }
            "STATUS" => self.status(peer, cursor),
            "APPEND" => self.append(cursor),
            "CREATE" | "DELETE" | "RENAME" => Ok("NO [CANNOT] the demo's folders are fixed".into()),
            "SUBSCRIBE" | "UNSUBSCRIBE" => match folder_named(&cursor.string()?) {
                Some(_) => Ok(format!("OK {word} completed")),
                None => Ok(NO_FOLDER.into()),
            },
            "IDLE" => self.idle(peer),
            "CHECK" => self.open().map(|_| "OK CHECK completed".into()),
            "CLOSE" | "UNSELECT" => self.close(word),
            "EXPUNGE" => self.expunge(None),
            "FETCH" | "STORE" | "SEARCH" | "COPY" | "MOVE" => {
                self.with_messages(peer, word, cursor, false)
            }
            "UID" => {
                let word = cursor.word()?;
                cursor.space()?;
                match word.as_str() {
                    "EXPUNGE" => {
                        let set = cursor.set()?;
                        self.expunge(Some(&set))
                    }
                    word => self.with_messages(peer, word, cursor, true),
                }
            }
            word => any_time(peer, word),
        }
    }

    fn with_messages(
        &mut self,
        peer: &mut Peer,
        word: &str,
        mut cursor: Cursor<'_>,
        by_uid: bool,
    ) -> Answer {
        if word == "SEARCH" {
            return self.search(peer, cursor, by_uid);
        }
        let set = cursor.set()?;
        cursor.space()?;
        let numbers = self.open()?.chosen(&set, by_uid);
        match word {
            "FETCH" => self.fetch(peer, cursor, &numbers, by_uid),
            "STORE" => self.store(peer, cursor, &numbers, by_uid),
            "COPY" => self.copy(peer, cursor, &numbers, false),
            "MOVE" => self.copy(peer, cursor, &numbers, true),
            _ => Err(Trouble::Bad),
        }
    }

    fn open(&self) -> Result<&Open, Trouble> {
        self.open.as_ref().ok_or(Trouble::Bad)
    }

    /// RFC 2177.
    fn idle(&mut self, peer: &mut Peer) -> Answer {
        peer.send("+ idling\r\n")?;
        for _ in 0..LOOKS {
            match peer.read_line_within(LOOK)? {
                Some(line) if line.eq_ignore_ascii_case(b"DONE") => {
                    return Ok("OK IDLE completed".into());
                }
                Some(_) => return Err(Trouble::Bad),
                None => peer.send(self.changes(true))?,
            }
        }
        Err(Trouble::Gone)
    }

    /// CLOSE removes what is marked as deleted, without a word.
    fn close(&mut self, word: &str) -> Answer {
        if word == "CLOSE" && !self.open()?.read_only {
            self.expunge(None)?;
        }
        self.open()?;
        self.open = None;
        Ok(format!("OK {word} completed"))
    }

    /// What is gone is told at the end of the command.
    fn expunge(&mut self, only: Option<&Set>) -> Answer {
        let open = self.open()?;
        if open.read_only {
            return Ok(READ_ONLY.into());
        }
        let last = open.last_uid();
        let mut account = self.store.account(self.user);
        let folder = account.folder_mut(open.folder);
        folder.messages.retain(|message| {
            let chosen = only.is_none_or(|set| set.contains(message.uid, last));
            !(chosen && message.flags.contains(Flags::DELETED))
        });
        Ok("OK EXPUNGE completed".into())
    }

    fn search(&self, peer: &mut Peer, mut cursor: Cursor<'_>, by_uid: bool) -> Answer {
        let key = search::parse(&mut cursor)?;
        cursor.end()?;
        let open = self.open()?;
        let mut found = String::from("* SEARCH");
        for (number, message) in self.messages(open, open.numbers()) {
            let numbers = MessageNumbers {
                number,
                last: open.last(),
                last_uid: open.last_uid(),
            };
            if key.fits(&message, numbers) {
                let shown = if by_uid { message.uid } else { number };
                found.push_str(&format!(" {shown}"));
            }
        }
        found.push_str("\r\n");
        peer.send(found)?;
        Ok("OK SEARCH completed".into())
    }

    fn fetch(
        &mut self,
        peer: &mut Peer,
        mut cursor: Cursor<'_>,
        numbers: &[u32],
        by_uid: bool,
    ) -> Answer {
        let mut items = fetch::parse(&mut cursor)?;
        cursor.end()?;
        if by_uid && !items.contains(&Item::Uid) {
            items.insert(0, Item::Uid);
        }
        let marks = |item: &Item| matches!(item, Item::Section(section) if section.marks);
        if items.iter().any(marks) && !self.open()?.read_only {
            self.change_flags(numbers, |flags| flags.with(Flags::SEEN));
        }
        let mut out = Vec::new();
        for (number, message) in self.messages(self.open()?, numbers.iter().copied()) {
            let news = self.learn(number, message.flags) && !items.contains(&Item::Flags);
            out.extend_from_slice(format!("* {number} FETCH (").as_bytes());
            for (at, item) in items.iter().chain(news.then_some(&Item::Flags)).enumerate() {
                out.extend_from_slice(if at > 0 { b" " } else { b"" });
                out.append(&mut item.render(&message));
                if out.len() > PIECE {
                    peer.send(&out)?;
                    out.clear();
                }
            }
            out.extend_from_slice(b")\r\n");
        }
        peer.send(&out)?;
        Ok("OK FETCH completed".into())
    }

    fn store(
        &mut self,
        peer: &mut Peer,
        mut cursor: Cursor<'_>,
        numbers: &[u32],
        by_uid: bool,
    ) -> Answer {
        let word = cursor.word()?;
        cursor.space()?;
        let given = match cursor.peek() {
            Some(b'(') => flag_list(&mut cursor)?,
            _ => bare_flags(&mut cursor)?,
        };
        cursor.end()?;
        if self.open()?.read_only {
            return Ok(READ_ONLY.into());
        }
        let (how, silent) = match word.strip_suffix(".SILENT") {
            Some(how) => (how, true),
            None => (word.as_str(), false),
        };
        match how {
            "FLAGS" => self.change_flags(numbers, |_| given),
            "+FLAGS" => self.change_flags(numbers, |flags| flags.with(given)),
            "-FLAGS" => self.change_flags(numbers, |flags| flags.without(given)),
            _ => return Err(Trouble::Bad),
        }
        let mut out = String::new();
        for (number, message) in self.messages(self.open()?, numbers.iter().copied()) {
            self.learn(number, message.flags);
            if !silent {
                let uid = by_uid.then_some(message.uid);
                out.push_str(&told_flags(number, uid, message.flags));
            }
        }
        peer.send(out)?;
        Ok("OK STORE completed".into())
    }

    /// The client learns of it at the end of the command, unless it is told before.
    fn change_flags(&self, numbers: &[u32], change: impl Fn(Flags) -> Flags) {
        let Some(open) = &self.open else {
            return;
        };
        let mut account = self.store.account(self.user);
        let folder = account.folder_mut(open.folder);
        for uid in numbers.iter().filter_map(|&number| open.uid(number)) {
            if let Some(message) = folder.message_mut(uid) {
                message.flags = change(message.flags);
            }
        }
    }

    /// COPY (RFC 4315), and MOVE (RFC 6851), which takes the originals away.
    fn copy(
        &mut self,
        peer: &mut Peer,
        mut cursor: Cursor<'_>,
        numbers: &[u32],
        moves: bool,
    ) -> Answer {
        let name = cursor.string()?;
        cursor.end()?;
        let Some(target) = folder_named(&name) else {
            return Ok("NO [TRYCREATE] no such folder".into());
        };
        let open = self.open()?;
        if moves && open.read_only {
            return Ok(READ_ONLY.into());
        }
        let originals = self.messages(open, numbers.iter().copied());
        let (mut from, mut to) = (Vec::new(), Vec::new());
        let mut account = self.store.account(self.user);
        for (_, message) in &originals {
            let text = Arc::clone(&message.text);
            match account.add(target, text, message.flags, message.received) {
                Ok(uid) => to.push(uid),
                Err(_) => {
                    account.folder_mut(target).remove(&to);
                    return Ok(FULL.into());
                }
            }
            from.push(message.uid);
        }
        if moves {
            account.folder_mut(open.folder).remove(&from);
        }
        drop(account);
        let shown = |uids: &[u32]| {
            let uids: Vec<_> = uids.iter().map(u32::to_string).collect();
            uids.join(",")
        };
        let validity = self.store.uid_validity;
        let code = match from.is_empty() {
            true => String::new(),
            false => format!("[COPYUID {validity} {} {}] ", shown(&from), shown(&to)),
        };
        if moves {
            peer.send(format!("* OK {code}moved\r\n"))?;
            return Ok("OK MOVE completed".into());
        }
        Ok(format!("OK {code}COPY completed"))
    }

    /// Those of the numbered messages that are still there. Their text is shared, not copied.
    fn messages(&self, open: &Open, numbers: impl Iterator<Item = u32>) -> Vec<(u32, Message)> {
        let account = self.store.account(self.user);
        let folder = account.folder(open.folder);
        let found = numbers.filter_map(|number| {
            let message = folder.message(open.uid(number)?)?;
            Some((number, message.clone()))
        });
        found.collect()
    }

    /// Notes what the client is being told about a message; says whether that is news.
    fn learn(&mut self, number: u32, flags: Flags) -> bool {
        let at = usize::try_from(number).unwrap_or(0).wrapping_sub(1);
        let known = self.open.as_mut().and_then(|open| open.known.get_mut(at));
        known.is_some_and(|known| std::mem::replace(&mut known.1, flags) != flags)
    }

    /// What has changed since the client was last told. Numbers may not shift behind the client's
    /// back: `expunges` says whether it may be told about removed messages now.
    pub(super) fn changes(&mut self, expunges: bool) -> String {
        let Some(open) = &mut self.open else {
            return String::new();
        };
        let account = self.store.account(self.user);
        let folder = account.folder(open.folder);
        let mut told = String::new();
        if expunges {
            let mut number = 0_u32;
            open.known.retain(|&(uid, _)| {
                number += 1;
                let there = folder.message(uid).is_some();
                if !there {
                    told.push_str(&format!("* {number} EXPUNGE\r\n"));
                    number -= 1;
                }
                there
            });
        }
        for (number, (uid, known)) in (1..).zip(&mut open.known) {
            if let Some(message) = folder.message(*uid).filter(|it| it.flags != *known) {
                *known = message.flags;
                told.push_str(&told_flags(number, Some(*uid), *known));
            }
        }
        let before = open.known.len();
        let news = folder.messages.iter().filter(|it| it.uid >= open.next_uid);
        open.known.extend(news.map(|it| (it.uid, it.flags)));
        open.next_uid = folder.next_uid;
        if open.known.len() > before {
            told.push_str(&format!("* {} EXISTS\r\n", open.known.len()));
        }
        told
    }
}

impl Open {
    fn numbers(&self) -> impl Iterator<Item = u32> {
        1..=self.last()
    }

    fn last(&self) -> u32 {
        u32::try_from(self.known.len()).unwrap_or(u32::MAX)
    }

    fn last_uid(&self) -> u32 {
        self.known.last().map_or(0, |it| it.0)
    }

    fn uid(&self, number: u32) -> Option<u32> {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        self.known.get(at).map(|it| it.0)
    }

    /// The numbers of the messages in a set.
    fn chosen(&self, set: &Set, by_uid: bool) -> Vec<u32> {
        let most = if by_uid { self.last_uid() } else { self.last() };
        let is_chosen = |&(number, (uid, _)): &(u32, &(u32, Flags))| {
            set.contains(if by_uid { *uid } else { number }, most)
        };
        let chosen = (1..).zip(&self.known).filter(is_chosen);
        chosen.map(|(number, _)| number).collect()
    }
}

fn told_flags(number: u32, uid: Option<u32>, flags: Flags) -> String {
    let uid = uid.map_or(String::new(), |uid| format!("UID {uid} "));
    format!("* {number} FETCH ({uid}FLAGS ({}))\r\n", flags.names())
}

/// Flags in parentheses.
pub(super) fn flag_list(cursor: &mut Cursor<'_>) -> Result<Flags, Bad> {
    let flags = cursor.list(Cursor::atom)?;
    Ok(flags
        .into_iter()
        .map(Flags::named)
        .fold(Flags::default(), Flags::with))
}

/// Flags without parentheses (RFC 3501, section 9, store-att-flags).
fn bare_flags(cursor: &mut Cursor<'_>) -> Result<Flags, Bad> {
    let mut flags = Flags::named(cursor.atom()?);
    while cursor.take(b' ') {
        flags = flags.with(Flags::named(cursor.atom()?));
    }
    Ok(flags)
}
