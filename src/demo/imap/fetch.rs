//! FETCH (RFC 3501, section 6.4.5): which items are asked for, and what they look like.

use super::command::{Bad, Cursor, quote};
use super::message;
use crate::demo::store::Message;

/// Most items of one command.
const ITEMS: usize = 32;

/// Something to tell about a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    Uid,
    Flags,
    InternalDate,
    Size,
    Envelope,
    Structure { extended: bool },
    Section(Section),
}

/// A part of the message's text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// What the client calls it.
    label: String,
    path: Vec<u32>,
    what: What,
    /// Whether reading it marks the message as read.
    pub(super) marks: bool,
    /// First byte and most bytes.
    partial: Option<(u32, u32)>,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    All,
    Header,
    Text,
    Mime,
    Fields { names: Vec<Vec<u8>>, others: bool },
}

/// Reads one item, a macro or a list of items.
pub(super) fn parse(cursor: &mut Cursor<'_>) -> Result<Vec<Item>, Bad> {
    if cursor.peek() == Some(b'(') {
        let items = cursor.list(item)?;
        return match items.len() {
            1..=ITEMS => Ok(items),
            _ => Err(Bad),
        };
    }
    let fast = || vec![Item::Flags, Item::InternalDate, Item::Size];
    let mut ahead = cursor.clone();
    let more = match ahead.run(b" [<")? {
        word if word.eq_ignore_ascii_case(b"FAST") => None,
        word if word.eq_ignore_ascii_case(b"ALL") => Some(vec![Item::Envelope]),
        word if word.eq_ignore_ascii_case(b"FULL") => {
            let extended = false;
            Some(vec![Item::Envelope, Item::Structure { extended }])
        }
        _ => return Ok(vec![item(cursor)?]),
    };
    *cursor = ahead;
    let mut items = fast();
    items.extend(more.into_iter().flatten());
    Ok(items)
}

fn item(cursor: &mut Cursor<'_>) -> Result<Item, Bad> {
    let word = cursor.run(b" ()[<")?;
    let word = String::from_utf8_lossy(word).to_ascii_uppercase();
    Ok(match word.as_str() {
        "UID" => Item::Uid,
        "FLAGS" => Item::Flags,
        "INTERNALDATE" => Item::InternalDate,
        "RFC822.SIZE" => Item::Size,
        "ENVELOPE" => Item::Envelope,
        "BODYSTRUCTURE" => Item::Structure { extended: true },
        "BODY" if cursor.peek() != Some(b'[') => Item::Structure { extended: false },
        "BODY" => Item::Section(section(cursor, true)?),
        "BODY.PEEK" => Item::Section(section(cursor, false)?),
        "RFC822" => whole("RFC822", What::All, true),
        "RFC822.HEADER" => whole("RFC822.HEADER", What::Header, false),
        "RFC822.TEXT" => whole("RFC822.TEXT", What::Text, true),
        _ => return Err(Bad),
    })
}

fn whole(label: &str, what: What, marks: bool) -> Item {
    Item::Section(Section {
        label: label.into(),
        path: Vec::new(),
        what,
        marks,
        partial: None,
    })
}

/// What stands between the brackets, and the range behind them.
fn section(cursor: &mut Cursor<'_>, marks: bool) -> Result<Section, Bad> {
    cursor.expect(b'[')?;
    let spec = match cursor.peek() {
        Some(b']') => &b""[..],
        _ => cursor.run(b" ]")?,
    };
    let spec = String::from_utf8_lossy(spec).to_ascii_uppercase();
    let mut path = Vec::new();
    let mut rest = spec.as_str();
    while rest.starts_with(|c: char| c.is_ascii_digit()) {
        let (number, behind) = rest.split_once('.').unwrap_or((rest, ""));
        path.push(number.parse().map_err(|_| Bad)?);
        rest = behind;
    }
    let mut label = format!("BODY[{spec}");
    let what = match rest {
        "" => What::All,
        "HEADER" => What::Header,
        "TEXT" => What::Text,
        "MIME" if !path.is_empty() => What::Mime,
        "HEADER.FIELDS" | "HEADER.FIELDS.NOT" => {
            cursor.space()?;
            let names = cursor.list(Cursor::string)?;
            let quoted: Vec<_> = names.iter().map(|name| quote(name)).collect();
            label = format!("{label} ({})", String::from_utf8_lossy(&quoted.join(&b' ')));
            let others = rest.ends_with("NOT");
            What::Fields { names, others }
        }
        _ => return Err(Bad),
    };
    cursor.expect(b']')?;
    label.push(']');
    let partial = partial(cursor)?;
    if let Some((first, _)) = partial {
        label = format!("{label}<{first}>");
    }
    Ok(Section {
        label,
        path,
        what,
        marks,
        partial,
    })
}

fn partial(cursor: &mut Cursor<'_>) -> Result<Option<(u32, u32)>, Bad> {
    if !cursor.take(b'<') {
        return Ok(None);
    }
    let first = cursor.number()?;
    cursor.expect(b'.')?;
    let most = cursor.number()?;
    cursor.expect(b'>')?;
    Ok(Some((first, most)))
}

impl Item {
    /// Name and value for the client.
    pub(super) fn render(&self, message: &Message) -> Vec<u8> {
        match self {
            Self::Uid => format!("UID {}", message.uid).into_bytes(),
            Self::Flags => format!("FLAGS ({})", message.flags.names()).into_bytes(),
            Self::InternalDate => {
                let date = message.received.strftime("%d-%b-%Y %H:%M:%S +0000");
                format!("INTERNALDATE \"{date}\"").into_bytes()
            }
            Self::Size => format!("RFC822.SIZE {}", message.text.len()).into_bytes(),
            Self::Envelope => {
                let (header, _) = message::split(&message.text);
                [b"ENVELOPE ", message::envelope(header).as_slice()].concat()
            }
            Self::Structure { extended } => {
                let name: &[u8] = if *extended {
                    b"BODYSTRUCTURE "
                } else {
                    b"BODY "
                };
                let structure = message::structure(&message.text, *extended);
                [name, &structure].concat()
            }
            Self::Section(section) => section.render(&message.text),
        }
    }
}

impl Section {
    fn render(&self, text: &[u8]) -> Vec<u8> {
        let Some(found) = self.find(text) else {
            return format!("{} NIL", self.label).into_bytes();
        };
        let found = match self.partial {
            None => found.as_slice(),
            Some((first, most)) => {
                let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
                let rest = found.get(size(first)..).unwrap_or_default();
                &rest[..rest.len().min(size(most))]
            }
        };
        let start = format!("{} {{{}}}\r\n", self.label, found.len());
        [start.as_bytes(), found].concat()
    }

    fn find(&self, text: &[u8]) -> Option<Vec<u8>> {
        let part = message::part(text, &self.path)?;
        let (header, body) = message::split(part);
        // The header and text of a part are those of the message in it.
        let inner = match self.path.is_empty() {
            true => Some((header, body)),
            false => message::is_message(part).then(|| message::split(body)),
        };
        match &self.what {
            What::All if self.path.is_empty() => Some(part.to_vec()),
            What::All => Some(body.to_vec()),
            What::Mime => Some(header.to_vec()),
            What::Header => inner.map(|(header, _)| header.to_vec()),
            What::Text => inner.map(|(_, body)| body.to_vec()),
            What::Fields { names, others } => {
                inner.map(|(header, _)| message::chosen_fields(header, names, *others))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::store::Flags;

    fn fetch(items: &str) -> String {
        let message = Message {
            uid: 7,
            flags: Flags::SEEN,
            received: jiff::Timestamp::UNIX_EPOCH,
            text: b"Subject: x\r\nTo: y\r\n\r\nbody\r\n"[..].into(),
        };
        let mut cursor = Cursor(items.as_bytes());
        let items = parse(&mut cursor).expect("items");
        cursor.end().expect("nothing more");
        let rendered: Vec<_> = items.iter().map(|item| item.render(&message)).collect();
        String::from_utf8(rendered.join(&b' ')).expect("ASCII")
    }

    #[test]
    fn what_a_mail_program_asks_for_first() {
        assert_eq!(
            fetch("(UID RFC822.SIZE FLAGS BODY.PEEK[HEADER.FIELDS (Subject \"Cc\")])"),
            "UID 7 RFC822.SIZE 27 FLAGS (\\Seen) BODY[HEADER.FIELDS (\"Subject\" \"Cc\")] {14}\r\n\
             Subject: x\r\n\r\n"
        );
    }

    #[test]
    fn sections_have_labels_and_ranges() {
        assert_eq!(fetch("BODY[TEXT]"), "BODY[TEXT] {6}\r\nbody\r\n");
        assert_eq!(fetch("body.peek[]<3.4>"), "BODY[]<3> {4}\r\nject");
        assert_eq!(fetch("BODY[1]<99.4>"), "BODY[1]<99> {0}\r\n");
        assert_eq!(fetch("BODY[2]"), "BODY[2] NIL");
        assert_eq!(fetch("BODY[1.HEADER]"), "BODY[1.HEADER] NIL");
        assert_eq!(
            fetch("BODY[1.MIME]"),
            "BODY[1.MIME] {21}\r\nSubject: x\r\nTo: y\r\n\r\n"
        );
    }

    #[test]
    fn macros_stand_for_items() {
        assert_eq!(
            fetch("fast"),
            "FLAGS (\\Seen) INTERNALDATE \"01-Jan-1970 00:00:00 +0000\" RFC822.SIZE 27"
        );
        assert!(fetch("FULL").ends_with(" 6 1)"));
    }

    #[test]
    fn unknown_items_are_bad() {
        for bad in [
            "",
            "()",
            "X",
            "BODY[",
            "BODY[X]",
            "BODY[MIME]",
            "BODY[]<1>",
            "BODY[HEADER.FIELDS]",
            "BODY[99999999999]",
            "(FLAGS",
            "(FLAGS UID UIDX)",
        ] {
            assert_eq!(parse(&mut Cursor(bad.as_bytes())), Err(Bad), "{bad}");
        }
        let many = format!("({}UID)", "UID ".repeat(ITEMS));
        assert_eq!(parse(&mut Cursor(many.as_bytes())), Err(Bad));
    }
}
