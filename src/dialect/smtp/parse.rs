//! One SMTP command line as bytes (RFC 5321, section 4.1). No I/O.

use zeroize::Zeroizing;

/// Most words behind a command.
const ARGUMENTS: usize = 11;

/// A word behind the command; wiped, since one of them can be a password.
pub(super) type Argument = Zeroizing<Vec<u8>>;

/// The commands known before login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Helo,
    Ehlo,
    Auth,
    Quit,
    Mail,
    Rcpt,
    Rset,
    Noop,
    StartTls,
    /// VRFY, EXPN and HELP: known, and refused.
    Other,
}

/// The words as they are spelt.
pub(super) const WORDS: [(&str, Word); 12] = [
    ("HELO", Word::Helo),
    ("EHLO", Word::Ehlo),
    ("AUTH", Word::Auth),
    ("QUIT", Word::Quit),
    ("MAIL", Word::Mail),
    ("RCPT", Word::Rcpt),
    ("RSET", Word::Rset),
    ("NOOP", Word::Noop),
    ("STARTTLS", Word::StartTls),
    ("VRFY", Word::Other),
    ("EXPN", Word::Other),
    ("HELP", Word::Other),
];

/// What a line is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A command and its words.
    Command(Word, Vec<Argument>),
    /// A request line of HTTP: a web page makes its reader's browser talk to mail ports.
    Http,
    /// BDAT (RFC 3030), which is not offered; its bytes follow without being asked for.
    Bdat(u64),
    /// Anything else.
    Bad,
}

/// Reads a line, its end cut off.
pub(super) fn parse(line: &[u8]) -> Parsed {
    if line.contains(&b'\r') {
        return Parsed::Bad;
    }
    let end = line
        .iter()
        .position(|&byte| byte == b' ')
        .unwrap_or(line.len());
    let (word, rest) = line.split_at(end);
    let mut words = rest
        .split(|&byte| byte == b' ')
        .filter(|word| !word.is_empty());
    let known = WORDS
        .iter()
        .find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes()));
    let Some(&(_, word)) = known else {
        if word.eq_ignore_ascii_case(b"BDAT") {
            return words
                .next()
                .and_then(number)
                .map_or(Parsed::Bad, Parsed::Bdat);
        }
        return match words.next_back() {
            Some(last) if last.starts_with(b"HTTP/1.") => Parsed::Http,
            _ => Parsed::Bad,
        };
    };
    let arguments: Vec<_> = words
        .take(ARGUMENTS + 1)
        .map(|word| Zeroizing::new(word.to_vec()))
        .collect();
    match arguments.len() {
        0..=ARGUMENTS => Parsed::Command(word, arguments),
        _ => Parsed::Bad,
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok()?;
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[u8]) -> usize {
        match parse(line) {
            Parsed::Command(_, arguments) => arguments.len(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn words_are_separated_by_spaces_and_at_most_eleven() {
        assert_eq!(words(b"ehlo  me "), 1);
        assert_eq!(words(b"NOOP 1 2 3 4 5 6 7 8 9 10 11"), 11);
        assert_eq!(parse(b"NOOP 1 2 3 4 5 6 7 8 9 10 11 12"), Parsed::Bad);
    }

    #[test]
    fn a_request_of_http_is_told_from_a_typing_error() {
        assert_eq!(parse(b"GET / HTTP/1.1"), Parsed::Http);
        assert_eq!(parse(b"POST /x HTTP/1.0"), Parsed::Http);
        assert_eq!(parse(b"GET /"), Parsed::Bad);
        assert_eq!(words(b"NOOP HTTP/1.1"), 1);
    }

    #[test]
    fn the_size_of_bdat_is_read() {
        assert_eq!(parse(b"BDAT 86 LAST"), Parsed::Bdat(86));
        assert_eq!(parse(b"bdat 0"), Parsed::Bdat(0));
        for bad in [
            &b"BDAT"[..],
            b"BDAT x",
            b"BDAT -1",
            b"BDAT 99999999999999999999999",
        ] {
            assert_eq!(parse(bad), Parsed::Bad);
        }
    }
}
