//! What may stand bare on a protocol line, and the pieces that lines are made of.
//!
//! Whatever is written onto a line without an encoding is a `Bare`: nobody's login, password or
//! host name can then begin a line of its own.

use zeroize::Zeroizing;

/// A line under construction; wiped, since some carry passwords.
pub(crate) type Line = Zeroizing<Vec<u8>>;

/// Bytes without CR, LF and NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bare<'a>(&'a [u8]);

impl<'a> Bare<'a> {
    /// The bytes, if they may stand bare on a line.
    pub(crate) fn new(bytes: &'a [u8]) -> Option<Self> {
        let breaks = |byte: &u8| matches!(byte, b'\r' | b'\n' | 0);
        (!bytes.iter().any(breaks)).then_some(Self(bytes))
    }

    /// The bytes.
    pub(crate) fn bytes(self) -> &'a [u8] {
        self.0
    }
}

/// A line of these parts, CRLF added.
pub(crate) fn line(parts: &[&[u8]]) -> Line {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    // Exactly as long as needed: a vector that grows leaves copies behind.
    let mut line = Zeroizing::new(Vec::with_capacity(length + 2));
    for part in parts {
        line.extend_from_slice(part);
    }
    line.extend_from_slice(b"\r\n");
    line
}

/// A line as it was read, without its CRLF or bare LF.
pub(crate) fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_ends_a_line_is_bare() {
        for bytes in [&b"a\rb"[..], b"a\nb", b"a\0b", b"\n"] {
            assert_eq!(Bare::new(bytes), None);
        }
        assert_eq!(Bare::new(b"a b").map(Bare::bytes), Some(&b"a b"[..]));
    }

    #[test]
    fn a_line_end_is_crlf_or_a_bare_lf() {
        assert_eq!(without_end(b"a\r\n"), b"a");
        assert_eq!(without_end(b"a\n"), b"a");
        assert_eq!(without_end(b"a\r\r\n"), b"a\r");
    }
}
