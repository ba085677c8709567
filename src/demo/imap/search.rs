//! SEARCH (RFC 3501, section 6.4.4): its keys, and whether a message fits them.
//!
//! Text is compared as it stands, nothing is decoded; case matters only beyond ASCII.

use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::command::{Bad, Cursor, Set};
use super::message;
use crate::demo::store::{Flags, Message};

/// Deepest nesting of keys.
const DEPTH: usize = 8;
/// Most keys of one command.
const KEYS: usize = 32;
/// Longest text to look for, in bytes.
const TEXT: usize = 256;

/// A condition.
#[derive(Debug)]
pub(super) enum Key {
    All(Vec<Key>),
    Not(Box<Key>),
    Or(Box<Key>, Box<Key>),
    Numbers(Set),
    Uids(Set),
    Has(Flags),
    /// No message has it.
    Never,
    Larger(u32),
    Smaller(u32),
    Since(When, Date),
    Before(When, Date),
    On(When, Date),
    Header(String, Vec<u8>),
    Body(Vec<u8>),
    Text(Vec<u8>),
}

/// Which date.
#[derive(Debug, Clone, Copy)]
pub(super) enum When {
    Received,
    Sent,
}

/// Reads all keys to the end of the command.
pub(super) fn parse(cursor: &mut Cursor<'_>) -> Result<Key, Bad> {
    let mut parser = Parser { cursor, keys: 0 };
    parser.skip_charset()?;
    let mut keys = vec![parser.key(0)?];
    while parser.cursor.take(b' ') {
        keys.push(parser.key(0)?);
    }
    Ok(Key::All(keys))
}

struct Parser<'a, 'b> {
    cursor: &'a mut Cursor<'b>,
    keys: usize,
}

impl Parser<'_, '_> {
    /// Only what is ASCII in it can be compared, whichever it is.
    fn skip_charset(&mut self) -> Result<(), Bad> {
        let mut ahead = self.cursor.clone();
        if ahead.word().is_ok_and(|word| word == "CHARSET") {
            ahead.space()?;
            ahead.string()?;
            ahead.space()?;
            *self.cursor = ahead;
        }
        Ok(())
    }

    fn key(&mut self, depth: usize) -> Result<Key, Bad> {
        self.keys += 1;
        if depth > DEPTH || self.keys > KEYS {
            return Err(Bad);
        }
        match self.cursor.peek() {
            Some(b'(') => {
                self.cursor.expect(b'(')?;
                let mut keys = vec![self.key(depth + 1)?];
                while !self.cursor.take(b')') {
                    self.cursor.space()?;
                    keys.push(self.key(depth + 1)?);
                }
                return Ok(Key::All(keys));
            }
            Some(b'0'..=b'9' | b'*') => return self.cursor.set().map(Key::Numbers),
            _ => {}
        }
        let word = self.cursor.word()?;
        if let Some(key) = flag_key(&word) {
            return Ok(key);
        }
        self.cursor.space()?;
        Ok(match word.as_str() {
            "NOT" => Key::Not(Box::new(self.key(depth + 1)?)),
            "OR" => {
                let first = self.key(depth + 1)?;
                self.cursor.space()?;
                Key::Or(Box::new(first), Box::new(self.key(depth + 1)?))
            }
            "UID" => Key::Uids(self.cursor.set()?),
            "KEYWORD" => self.cursor.atom().map(|_| Key::Never)?,
            "UNKEYWORD" => self.cursor.atom().map(|_| Key::All(Vec::new()))?,
            "LARGER" => Key::Larger(self.cursor.number()?),
            "SMALLER" => Key::Smaller(self.cursor.number()?),
            "SINCE" => Key::Since(When::Received, self.date()?),
            "BEFORE" => Key::Before(When::Received, self.date()?),
            "ON" => Key::On(When::Received, self.date()?),
            "SENTSINCE" => Key::Since(When::Sent, self.date()?),
            "SENTBEFORE" => Key::Before(When::Sent, self.date()?),
            "SENTON" => Key::On(When::Sent, self.date()?),
            "FROM" | "TO" | "CC" | "BCC" | "SUBJECT" => Key::Header(word, self.text()?),
            "HEADER" => {
                let name = String::from_utf8_lossy(&self.text()?).into_owned();
                self.cursor.space()?;
                Key::Header(name, self.text()?)
            }
            "BODY" => Key::Body(self.text()?),
            "TEXT" => Key::Text(self.text()?),
            _ => return Err(Bad),
        })
    }

    fn text(&mut self) -> Result<Vec<u8>, Bad> {
        let text = self.cursor.string()?;
        match text.len() {
            0..=TEXT => Ok(text),
            _ => Err(Bad),
        }
    }

    fn date(&mut self) -> Result<Date, Bad> {
        let text = self.cursor.string()?;
        let text = std::str::from_utf8(&text).map_err(|_| Bad)?;
        Date::strptime("%d-%b-%Y", text).map_err(|_| Bad)
    }
}

/// Keys about flags, and ALL. \Recent is nowhere, so NEW finds nothing and OLD everything.
fn flag_key(word: &str) -> Option<Key> {
    let all = || Key::All(Vec::new());
    match word {
        "ALL" | "OLD" => return Some(all()),
        "NEW" | "RECENT" => return Some(Key::Never),
        _ => {}
    }
    let (name, not) = match word.strip_prefix("UN") {
        Some(name) => (name, true),
        None => (word, false),
    };
    if !matches!(name, "SEEN" | "ANSWERED" | "FLAGGED" | "DELETED" | "DRAFT") {
        return None;
    }
    let has = Key::Has(Flags::named(format!("\\{name}").as_bytes()));
    Some(match not {
        true => Key::Not(Box::new(has)),
        false => has,
    })
}

/// Where a message stands among those that the client knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct MessageNumbers {
    /// Its number.
    pub(super) number: u32,
    /// The last number.
    pub(super) last: u32,
    /// The last UID.
    pub(super) last_uid: u32,
}

impl Key {
    /// Whether a message fits.
    pub(super) fn fits(&self, message: &Message, numbers: MessageNumbers) -> bool {
        match self {
            Self::All(keys) => keys.iter().all(|key| key.fits(message, numbers)),
            Self::Not(key) => !key.fits(message, numbers),
            Self::Or(a, b) => a.fits(message, numbers) || b.fits(message, numbers),
            Self::Numbers(set) => set.contains(numbers.number, numbers.last),
            Self::Uids(set) => set.contains(message.uid, numbers.last_uid),
            Self::Has(flags) => message.flags.contains(*flags),
            Self::Never => false,
            Self::Larger(size) => message.text.len() as u64 > u64::from(*size),
            Self::Smaller(size) => (message.text.len() as u64) < u64::from(*size),
            Self::Since(when, date) => when.of(message) >= *date,
            Self::Before(when, date) => when.of(message) < *date,
            Self::On(when, date) => when.of(message) == *date,
            Self::Header(name, text) => {
                let value = message::field(message::split(&message.text).0, name);
                value.is_some_and(|value| contains(&value, text))
            }
            Self::Body(text) => contains(message::split(&message.text).1, text),
            Self::Text(text) => contains(&message.text, text),
        }
    }
}

impl When {
    fn of(self, message: &Message) -> Date {
        let received = message.received.to_zoned(TimeZone::UTC).date();
        match self {
            Self::Received => received,
            Self::Sent => sent(message).unwrap_or(received),
        }
    }
}

/// The day of the Date field, without regard to its zone.
fn sent(message: &Message) -> Option<Date> {
    let field = message::field(message::split(&message.text).0, "Date")?;
    let field = std::str::from_utf8(&field).ok()?;
    let date = jiff::fmt::rfc2822::parse(field).ok()?;
    Some(date.date())
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    if part.is_empty() {
        return true;
    }
    text.windows(part.len())
        .any(|window| window.eq_ignore_ascii_case(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fits(keys: &str) -> bool {
        let message = Message {
            uid: 7,
            flags: Flags::SEEN,
            received: "2026-11-22T10:00:00Z".parse().expect("a time"),
            text:
                b"Subject: Lunch\r\nDate: Fri, 20 Nov 2026 23:59:00 -0900\r\n\r\nat twelve\r\n"[..]
                    .into(),
        };
        let numbers = MessageNumbers {
            number: 2,
            last: 3,
            last_uid: 9,
        };
        let mut cursor = Cursor(keys.as_bytes());
        let key = parse(&mut cursor).expect("keys");
        cursor.end().expect("nothing more");
        key.fits(&message, numbers)
    }

    #[test]
    fn keys_that_fit() {
        for keys in [
            "ALL",
            "SEEN UNDELETED",
            "1:2",
            "UID 7:*",
            "NOT 3",
            "OR 9 UID 7",
            "(SEEN (NOT DRAFT))",
            "SUBJECT lunch",
            "HEADER Date \"20 Nov\"",
            "HEADER Subject \"\"",
            "BODY TWELVE",
            "TEXT {5}\r\nLunch",
            "SINCE 22-Nov-2026",
            "ON 22-Nov-2026",
            "SENTON 20-Nov-2026",
            "SENTBEFORE 21-Nov-2026",
            "LARGER 10 SMALLER 1000",
            "CHARSET UTF-8 TEXT lunch",
            "UNKEYWORD x",
        ] {
            assert!(fits(keys), "{keys}");
        }
    }

    #[test]
    fn keys_that_do_not_fit() {
        for keys in [
            "UNSEEN",
            "SEEN DELETED",
            "3:*",
            "UID 8:*",
            "SUBJECT dinner",
            "BODY lunch",
            "CC x",
            "NEW",
            "KEYWORD x",
            "BEFORE 22-Nov-2026",
            "HEADER X \"\"",
        ] {
            assert!(!fits(keys), "{keys}");
        }
    }

    #[test]
    fn broken_keys_are_bad() {
        let nested = format!("{}ALL", "NOT ".repeat(DEPTH + 1));
        let many = "ALL ".repeat(KEYS) + "ALL";
        let long = format!("TEXT {}", "x".repeat(TEXT + 1));
        for keys in [
            "", "X", "NOT", "(ALL", "()", "SINCE x", "UID", &nested, &many, &long,
        ] {
            let mut cursor = Cursor(keys.as_bytes());
            let good = parse(&mut cursor).is_ok() && cursor.end().is_ok();
            assert!(!good, "{keys}");
        }
    }
}
