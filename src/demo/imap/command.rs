//! Reading commands of RFC 3501: whole, with their literals, and piece by piece.

use crate::demo::peer::{Gone, Peer};
use crate::demo::store::MAX_MESSAGE;

/// Longest command that carries no message, in bytes.
const MAX_COMMAND: usize = 64 * 1024;

/// The command cannot be understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bad;

/// Reads a command whole: its lines, each followed by the literal that it announces. Literals that
/// are too large are refused here.
pub(super) fn read(peer: &mut Peer) -> Result<Vec<u8>, Gone> {
    let mut command = Vec::new();
    loop {
        let line = peer.read_line()?;
        command.extend_from_slice(&line);
        let Some((size, waits)) = literal(&line) else {
            return Ok(command);
        };
        if command.len().saturating_add(size) > limit(&command) {
            let tag = String::from_utf8_lossy(tag(&command)).into_owned();
            if !waits {
                peer.send("* BYE literal too large\r\n")?;
                return Err(Gone);
            }
            peer.send(format!("{tag} NO [TOOBIG] literal too large\r\n"))?;
            command.clear();
            continue;
        }
        if waits {
            peer.send("+ OK\r\n")?;
        }
        command.extend_from_slice(b"\r\n");
        command.extend_from_slice(&peer.read_bytes(size)?);
    }
}

/// Only APPEND has a message in it.
fn limit(command: &[u8]) -> usize {
    let rest = command.get(tag(command).len() + 1..).unwrap_or_default();
    let word = rest.get(..7).unwrap_or_default();
    match word.eq_ignore_ascii_case(b"APPEND ") {
        true => MAX_MESSAGE + MAX_COMMAND,
        false => MAX_COMMAND,
    }
}

/// The bytes up to the first space.
fn tag(command: &[u8]) -> &[u8] {
    let tag = command.split(|&byte| byte == b' ').next();
    tag.unwrap_or_default()
}

/// The literal that a line announces: its size, and whether the client waits for an answer.
fn literal(line: &[u8]) -> Option<(usize, bool)> {
    let line = line.strip_suffix(b"}")?;
    let start = line.iter().rposition(|&byte| byte == b'{')?;
    let number = &line[start + 1..];
    let (digits, waits) = match number.strip_suffix(b"+") {
        Some(digits) => (digits, false),
        None => (number, true),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // A number that does not fit is too large in any case.
    let size = std::str::from_utf8(digits).ok()?.parse();
    Some((size.unwrap_or(usize::MAX), waits))
}

/// What is left of a command.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    /// The next byte.
    pub(super) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// Takes the next byte if it is this one.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.0 = &self.0[1..];
        }
        found
    }

    /// Takes this byte.
    pub(super) fn expect(&mut self, byte: u8) -> Result<(), Bad> {
        self.take(byte).then_some(()).ok_or(Bad)
    }

    /// Takes the space between two arguments.
    pub(super) fn space(&mut self) -> Result<(), Bad> {
        self.expect(b' ')
    }

    /// The command must be over.
    pub(super) fn end(&self) -> Result<(), Bad> {
        self.0.is_empty().then_some(()).ok_or(Bad)
    }

    /// Bytes up to one of `stops`; at least one.
    pub(super) fn run(&mut self, stops: &[u8]) -> Result<&'a [u8], Bad> {
        let is_stop = |byte: &u8| stops.contains(byte) || byte.is_ascii_control();
        let end = self.0.iter().position(is_stop).unwrap_or(self.0.len());
        let (run, rest) = self.0.split_at(end);
        self.0 = rest;
        match run {
            [] => Err(Bad),
            run => Ok(run),
        }
    }

    /// An atom, flags and list patterns included.
    pub(super) fn atom(&mut self) -> Result<&'a [u8], Bad> {
        self.run(b" (){\"")
    }

    /// An atom in upper case.
    pub(super) fn word(&mut self) -> Result<String, Bad> {
        let atom = self.atom()?;
        Ok(String::from_utf8_lossy(atom).to_ascii_uppercase())
    }

    /// An atom, a quoted string or a literal.
    pub(super) fn string(&mut self) -> Result<Vec<u8>, Bad> {
        match self.peek() {
            Some(b'"') => self.quoted(),
            Some(b'{') => self.literal().map(<[u8]>::to_vec),
            _ => self.atom().map(<[u8]>::to_vec),
        }
    }

    fn quoted(&mut self) -> Result<Vec<u8>, Bad> {
        self.expect(b'"')?;
        let mut text = Vec::new();
        loop {
            let (&byte, rest) = self.0.split_first().ok_or(Bad)?;
            self.0 = rest;
            match byte {
                b'"' => return Ok(text),
                b'\r' | b'\n' | 0 => return Err(Bad),
                b'\\' => {
                    let (&escaped, rest) = self.0.split_first().ok_or(Bad)?;
                    self.0 = rest;
                    text.push(escaped);
                }
                byte => text.push(byte),
            }
        }
    }

    /// A literal's bytes.
    pub(super) fn literal(&mut self) -> Result<&'a [u8], Bad> {
        let end = self.0.iter().position(|&byte| byte == b'\r').ok_or(Bad)?;
        let announced = &self.0[..end];
        let starts = announced.iter().rposition(|&byte| byte == b'{') == Some(0);
        let (size, _) = literal(announced).filter(|_| starts).ok_or(Bad)?;
        let rest = self.0[end..].strip_prefix(b"\r\n").ok_or(Bad)?;
        let (text, rest) = rest.split_at_checked(size).ok_or(Bad)?;
        self.0 = rest;
        Ok(text)
    }

    /// A decimal number.
    pub(super) fn number(&mut self) -> Result<u32, Bad> {
        let is_other = |byte: &u8| !byte.is_ascii_digit();
        let end = self.0.iter().position(is_other).unwrap_or(self.0.len());
        let (digits, rest) = self.0.split_at(end);
        self.0 = rest;
        let digits = std::str::from_utf8(digits).map_err(|_| Bad)?;
        digits.parse().map_err(|_| Bad)
    }

    /// A list in parentheses whose items `item` reads.
    pub(super) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Self) -> Result<T, Bad>,
    ) -> Result<Vec<T>, Bad> {
        self.expect(b'(')?;
        let mut items = Vec::new();
        while !self.take(b')') {
            if !items.is_empty() {
                self.space()?;
            }
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// A set of numbers, such as `1,3:5,7:*`.
    pub(super) fn set(&mut self) -> Result<Set, Bad> {
        let mut ranges = Vec::new();
        loop {
            let first = self.set_number()?;
            let last = match self.take(b':') {
                true => self.set_number()?,
                false => first,
            };
            ranges.push((first, last));
            if !self.take(b',') {
                return Ok(Set(ranges));
            }
        }
    }

    fn set_number(&mut self) -> Result<Option<u32>, Bad> {
        if self.take(b'*') {
            return Ok(None);
        }
        self.number().and_then(|number| match number {
            0 => Err(Bad),
            number => Ok(Some(number)),
        })
    }
}

/// A set of message numbers or UIDs; `None` stands for `*`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Set(Vec<(Option<u32>, Option<u32>)>);

impl Set {
    /// Whether a number is in it; `*` is `most`.
    pub(super) fn contains(&self, number: u32, most: u32) -> bool {
        self.0.iter().any(|&(a, b)| {
            let (a, b) = (a.unwrap_or(most), b.unwrap_or(most));
            (a.min(b)..=a.max(b)).contains(&number)
        })
    }
}

/// Bytes as a string for the client: quoted where that is possible, as a literal otherwise.
pub(in crate::demo) fn quote(bytes: &[u8]) -> Vec<u8> {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~');
    if bytes.len() > 1024 || !bytes.iter().all(is_plain) {
        return [format!("{{{}}}\r\n", bytes.len()).as_bytes(), bytes].concat();
    }
    let mut quoted = vec![b'"'];
    for &byte in bytes {
        if matches!(byte, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(byte);
    }
    quoted.push(b'"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_atoms_or_quoted_or_literals() {
        let mut cursor = Cursor(b"ab \"c \\\"d\" {3}\r\nx y {0+}\r\n");
        let mut strings = Vec::new();
        while cursor.peek().is_some() {
            strings.push(cursor.string().expect("a string"));
            cursor.take(b' ');
        }
        assert_eq!(strings, [&b"ab"[..], b"c \"d", b"x y", b""]);
    }

    #[test]
    fn broken_strings_are_bad() {
        for broken in [
            &b"\"a"[..],
            b"\"a\\",
            b"{4}\r\nabc",
            b"{4}",
            b"{-1}\r\n",
            b"{99999999999999999999}\r\na",
            b"",
            b"(",
            b"{x{1}\r\na",
        ] {
            assert_eq!(Cursor(broken).string(), Err(Bad), "{broken:?}");
        }
    }

    #[test]
    fn sets_have_ranges_in_any_order_and_a_star() {
        let set = Cursor(b"1,7:5,9:*").set().expect("a set");
        let within: Vec<_> = (1..=12).filter(|&n| set.contains(n, 11)).collect();
        assert_eq!(within, [1, 5, 6, 7, 9, 10, 11]);
        // RFC 3501, section 6.4.8: the last one is always in `N:*`.
        assert!(Cursor(b"99:*").set().expect("a set").contains(11, 11));
        for bad in [&b""[..], b"0", b"1:", b",1", b"4294967296"] {
            assert_eq!(Cursor(bad).set(), Err(Bad), "{bad:?}");
        }
    }

    #[test]
    fn a_line_announces_a_literal_at_its_end() {
        assert_eq!(literal(b"a LOGIN {5}"), Some((5, true)));
        assert_eq!(literal(b"a LOGIN {5+}"), Some((5, false)));
        assert_eq!(literal(b"{99999999999999999999}"), Some((usize::MAX, true)));
        for none in [&b"a {5} b"[..], b"a {}", b"a {+}", b"a {5", b"5}"] {
            assert_eq!(literal(none), None, "{none:?}");
        }
    }

    #[test]
    fn text_that_quotes_cannot_hold_becomes_a_literal() {
        assert_eq!(quote(b"a \"b\" \\"), b"\"a \\\"b\\\" \\\\\"");
        assert_eq!(quote(b"a\r\nb"), b"{4}\r\na\r\nb");
        assert_eq!(quote("ä".as_bytes()), "{2}\r\nä".as_bytes());
    }
}
