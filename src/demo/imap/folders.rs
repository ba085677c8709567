//! Commands about folders as a whole (RFC 3501, section 6.3): LIST, STATUS, SELECT, APPEND.
//!
//! Which folders there are is fixed.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::Answer;
use super::command::{Bad, Cursor};
use super::session::{Open, Session, flag_list};
use crate::demo::peer::Peer;
use crate::demo::store::{FOLDERS, Flags, INBOX, MAX_MESSAGE, with_crlf};

/// The answer about a folder that is not among `FOLDERS`.
pub(super) const NO_FOLDER: &str = "NO [NONEXISTENT] no such folder";
/// The answer to one message too many.
pub(super) const FULL: &str = "NO [OVERQUOTA] the demo keeps no more mail than this";

const ALL_FLAGS: &str = "\\Seen \\Answered \\Flagged \\Deleted \\Draft";

impl Session<'_> {
    /// SELECT and EXAMINE.
    pub(super) fn select(
        &mut self,
        peer: &mut Peer,
        mut cursor: Cursor<'_>,
        read_only: bool,
    ) -> Answer {
        let name = cursor.string()?;
        cursor.end()?;
        self.open = None;
        let Some(folder) = folder_named(&name) else {
            return Ok(NO_FOLDER.into());
        };
        let account = self.store.account(self.user);
        let messages = &account.folder(folder).messages;
        let next_uid = account.folder(folder).next_uid;
        let known: Vec<_> = messages.iter().map(|it| (it.uid, it.flags)).collect();
        drop(account);
        let unseen = known.iter().position(|it| !it.1.contains(Flags::SEEN));
        let unseen = unseen.map_or(String::new(), |at| {
            format!("* OK [UNSEEN {}] first unread message\r\n", at + 1)
        });
        let (permanent, access) = match read_only {
            true => ("", "READ-ONLY"),
            false => (ALL_FLAGS, "READ-WRITE"),
        };
        peer.send(format!(
            "* FLAGS ({ALL_FLAGS})\r\n* OK [PERMANENTFLAGS ({permanent})] kept\r\n* {} EXISTS\r\n\
             * 0 RECENT\r\n{unseen}* OK [UIDVALIDITY {}] valid\r\n* OK [UIDNEXT {next_uid}] next\r\n",
            known.len(),
            self.store.uid_validity,
        ))?;
        self.open = Some(Open {
            folder,
            read_only,
            known,
            next_uid,
        });
        Ok(format!("OK [{access}] opened"))
    }

    /// STATUS.
    pub(super) fn status(&self, peer: &mut Peer, mut cursor: Cursor<'_>) -> Answer {
        let name = cursor.string()?;
        cursor.space()?;
        let wanted = cursor.list(Cursor::word)?;
        cursor.end()?;
        let Some(at) = folder_named(&name) else {
            return Ok(NO_FOLDER.into());
        };
        let account = self.store.account(self.user);
        let folder = account.folder(at);
        let unseen = folder.messages.iter();
        let unseen = unseen.filter(|it| !it.flags.contains(Flags::SEEN)).count();
        let value = |item: &String| match item.as_str() {
            "MESSAGES" => Ok(format!("{item} {}", folder.messages.len())),
            "RECENT" => Ok(format!("{item} 0")),
            "UIDNEXT" => Ok(format!("{item} {}", folder.next_uid)),
            "UIDVALIDITY" => Ok(format!("{item} {}", self.store.uid_validity)),
            "UNSEEN" => Ok(format!("{item} {unseen}")),
            _ => Err(Bad),
        };
        let values: Vec<_> = wanted.iter().take(8).map(value).collect::<Result<_, _>>()?;
        drop(account);
        let name = FOLDERS[at].0;
        peer.send(format!("* STATUS {name} ({})\r\n", values.join(" ")))?;
        Ok("OK STATUS completed".into())
    }

    /// APPEND.
    pub(super) fn append(&self, mut cursor: Cursor<'_>) -> Answer {
        let name = cursor.string()?;
        cursor.space()?;
        let mut flags = Flags::default();
        if cursor.peek() == Some(b'(') {
            flags = flag_list(&mut cursor)?;
            cursor.space()?;
        }
        let mut received = Timestamp::now();
        if cursor.peek() == Some(b'"') {
            received = date_time(&cursor.string()?)?;
            cursor.space()?;
        }
        let text = cursor.literal()?;
        cursor.end()?;
        let Some(folder) = folder_named(&name) else {
            return Ok("NO [TRYCREATE] no such folder".into());
        };
        if text.len() > MAX_MESSAGE {
            return Ok("NO [TOOBIG] message too large".into());
        }
        let mut account = self.store.account(self.user);
        let added = account.add(folder, with_crlf(text), flags, received);
        let validity = self.store.uid_validity;
        Ok(added.map_or(FULL.into(), |uid| {
            format!("OK [APPENDUID {validity} {uid}] APPEND completed")
        }))
    }
}

/// INBOX in any case (RFC 3501, section 5.1), the others as they are.
pub(super) fn folder_named(name: &[u8]) -> Option<usize> {
    if name.eq_ignore_ascii_case(b"INBOX") {
        return Some(INBOX);
    }
    FOLDERS
        .iter()
        .position(|(folder, _)| folder.as_bytes() == name)
}

/// LIST and LSUB: everybody is subscribed to everything.
pub(super) fn list(peer: &mut Peer, word: &str, mut cursor: Cursor<'_>) -> Answer {
    cursor.string()?;
    cursor.space()?;
    let pattern = cursor.string()?;
    cursor.end()?;
    let mut out = String::new();
    if pattern.is_empty() {
        out.push_str(&format!("* {word} (\\Noselect) \"/\" \"\"\r\n"));
    }
    for (name, special) in FOLDERS {
        if matches(name.as_bytes(), &pattern) {
            let space = if special.is_empty() { "" } else { " " };
            out.push_str(&format!(
                "* {word} (\\HasNoChildren{space}{special}) \"/\" {name}\r\n"
            ));
        }
    }
    peer.send(out)?;
    Ok(format!("OK {word} completed"))
}

/// Names have no hierarchy here, so `%` and `*` mean the same: any text, also none.
fn matches(name: &[u8], pattern: &[u8]) -> bool {
    let is_wildcard = |byte: &u8| matches!(byte, b'*' | b'%');
    // Positions in the pattern that the name read so far can have led to.
    let mut reached = BTreeSet::from([0]);
    let skip_wildcards = |reached: &mut BTreeSet<usize>| {
        for (at, byte) in pattern.iter().enumerate() {
            if is_wildcard(byte) && reached.contains(&at) {
                reached.insert(at + 1);
            }
        }
    };
    skip_wildcards(&mut reached);
    for byte in name {
        let step = |&at: &usize| match pattern.get(at)? {
            wildcard if is_wildcard(wildcard) => Some(at),
            other => other.eq_ignore_ascii_case(byte).then_some(at + 1),
        };
        reached = reached.iter().filter_map(step).collect();
        skip_wildcards(&mut reached);
    }
    reached.contains(&pattern.len())
}

/// ` 1-Nov-2026 10:00:00 +0100`.
fn date_time(text: &[u8]) -> Result<Timestamp, Bad> {
    let text = std::str::from_utf8(text).map_err(|_| Bad)?;
    Timestamp::strptime("%d-%b-%Y %H:%M:%S %z", text.trim_start()).map_err(|_| Bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_with_wildcards_anywhere() {
        for pattern in ["*", "%", "INBOX", "in%", "*box", "I*B*X", "****", "INBOX*"] {
            assert!(matches(b"INBOX", pattern.as_bytes()), "{pattern}");
        }
        for pattern in ["", "INBO", "INBOXX", "*y", "INBOX/%", "B*"] {
            assert!(!matches(b"INBOX", pattern.as_bytes()), "{pattern}");
        }
        assert!(!matches(b"INBOX", "*x".repeat(5000).as_bytes()));
    }

    #[test]
    fn dates_have_a_day_of_one_or_two_digits_and_a_zone() {
        let date = date_time(b" 1-Nov-2026 10:00:00 +0100").expect("a date");
        assert_eq!(date.to_string(), "2026-11-01T09:00:00Z");
        assert!(date_time(b"21-Nov-2026 10:00:00 -0000").is_ok());
        for bad in [
            &b""[..],
            b"1-Nov-2026",
            b"99-Nov-2026 10:00:00 +0000",
            b"\xff",
        ] {
            assert!(date_time(bad).is_err(), "{bad:?}");
        }
    }
}
