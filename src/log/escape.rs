//! Text from the network, made harmless and short enough for a line of the log.
//!
//! What could end a line, move a cursor, reverse the reading direction or close a quotation is
//! written as `\xHH`, byte by byte. Printable UTF-8 stays readable.

use std::fmt::Write;

/// Bytes that one piece of network text may take in a message.
const PIECE_LIMIT: usize = 512;

/// Network text for use inside a message, without quotes around it.
///
/// Controls, `"`, `\` and invalid UTF-8 become `\xHH`. After 512 bytes follows `...(+N)`, N being the
/// number of bytes of the original that were cut.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut out = String::new();
    append(&mut out, bytes, PIECE_LIMIT, closes_or_misleads);
    out
}

/// Appends at most `limit` bytes (a mark for the rest excluded), those that `escaped` names as `\xHH`.
pub(super) fn append(out: &mut String, bytes: &[u8], limit: usize, escaped: impl Fn(char) -> bool) {
    // Nearly everything is this, and needs no look at each character's width.
    let plain = |&byte: &u8| (b' '..=b'~').contains(&byte) && !escaped(char::from(byte));
    if bytes.len() <= limit
        && bytes.iter().all(plain)
        && let Ok(text) = std::str::from_utf8(bytes)
    {
        return out.push_str(text);
    }
    let end = out.len() + limit;
    let mut done = 0;
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let hidden = escaped(c);
            let width = if hidden {
                4 * c.len_utf8()
            } else {
                c.len_utf8()
            };
            if out.len() + width > end {
                return mark_cut(out, bytes.len() - done);
            }
            if hidden {
                append_hex(out, c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                out.push(c);
            }
            done += c.len_utf8();
        }
        if out.len() + 4 * chunk.invalid().len() > end {
            return mark_cut(out, bytes.len() - done);
        }
        append_hex(out, chunk.invalid());
        done += chunk.invalid().len();
    }
}

/// Whether a character would do harm inside double quotes.
pub(super) fn closes_or_misleads(c: char) -> bool {
    matches!(c, '"' | '\\') || misleads(c)
}

/// Whether a character would do harm anywhere: controls, line separators, changes of direction, tags.
pub(super) fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
            | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

/// Nothing is escaped but invalid UTF-8, which has no other form: for JSON, whose strings escape for themselves.
pub(super) fn nothing(_: char) -> bool {
    false
}

fn append_hex(out: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(out, "\\x{byte:02X}");
    }
}

fn mark_cut(out: &mut String, rest: usize) {
    if rest > 0 {
        // Writing to a String cannot fail.
        let _ = write!(out, "...(+{rest})");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_escapes_and_quotes_become_hex() {
        assert_eq!(
            escape(b"a\r\nb\x1b[2J\"c\\d\0\x7f"),
            r"a\x0D\x0Ab\x1B[2J\x22c\x5Cd\x00\x7F"
        );
    }

    #[test]
    fn printable_utf8_stays_and_invalid_utf8_becomes_hex() {
        assert_eq!(escape("jürgen@例え.jp".as_bytes()), "jürgen@例え.jp");
        assert_eq!(escape(b"j\xfcrgen\xc3"), r"j\xFCrgen\xC3");
    }

    #[test]
    fn c1_controls_and_direction_marks_become_hex() {
        assert_eq!(
            escape("a\u{9b}b\u{202e}c\u{2028}".as_bytes()),
            r"a\xC2\x9Bb\xE2\x80\xAEc\xE2\x80\xA8"
        );
    }

    #[test]
    fn what_is_too_long_is_cut_and_counted() {
        assert_eq!(escape(&[b'a'; 512]), "a".repeat(512));
        assert_eq!(escape(&[b'a'; 600]), format!("{}...(+88)", "a".repeat(512)));
        assert_eq!(
            escape(&[0xff; 200]),
            format!("{}...(+72)", r"\xFF".repeat(128))
        );
        // An escape is never cut in two.
        assert_eq!(
            escape(format!("{}\nx", "a".repeat(510)).as_bytes()),
            format!("{}...(+2)", "a".repeat(510))
        );
    }
}
