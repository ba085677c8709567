//! One IMAP command as bytes (RFC 3501, section 9): a tag, a word, and up to three arguments; and the answer to
//! ID, which is made of the same strings.
//!
//! No I/O. The caller hands over everything from the beginning of a command on, as often as more has
//! come, and answers synchronizing literals.

use zeroize::Zeroizing;

/// Longest tag that is echoed; RFC 9051 sets no bound.
const TAG: usize = 128;

/// Most arguments of a command.
const ARGUMENTS: usize = 3;

/// How a backend's answer to ID begins.
const ID_ANSWER: &[u8] = b"* ID ";

/// An argument; wiped, since one of them is a password.
pub(super) type Argument = Zeroizing<Vec<u8>>;

/// What the bytes amount to so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// More is needed: at least so much that there are `needs` bytes in all.
    Incomplete {
        /// The tag, if at least that could be read.
        tag: Vec<u8>,
        needs: usize,
    },
    /// A synchronizing literal of `size` bytes is announced; its bytes begin at `at`, once it has
    /// been answered.
    Literal { at: usize, size: usize },
    /// A literal that is sent without being asked for and does not fit.
    TooLong { tag: Vec<u8> },
    /// A command of `len` bytes.
    Command {
        tag: Vec<u8>,
        word: Word,
        arguments: Vec<Argument>,
        len: usize,
    },
    /// A line of `len` bytes that is no command.
    Bad {
        /// The tag, if at least that could be read.
        tag: Vec<u8>,
        len: usize,
        /// It announces a literal that the client does not wait to send: what follows cannot be told
        /// from commands.
        runs_on: bool,
    },
}

/// The commands known before login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    Capability,
    Noop,
    Logout,
    StartTls,
    Login,
    Authenticate,
    Id,
}

/// The words as they are spelt.
pub(super) const WORDS: [(&str, Word); 7] = [
    ("CAPABILITY", Word::Capability),
    ("NOOP", Word::Noop),
    ("LOGOUT", Word::Logout),
    ("STARTTLS", Word::StartTls),
    ("LOGIN", Word::Login),
    ("AUTHENTICATE", Word::Authenticate),
    ("ID", Word::Id),
];

/// Reads a command of at most `limit` bytes. `answered` is where the bytes of the last synchronizing literal that was answered
/// begin; 0 if there was none.
pub(super) fn parse(input: &[u8], answered: usize, limit: usize) -> Parsed {
    let mut parser = Parser {
        input,
        at: 0,
        answered,
        limit,
        needs: 0,
        tag: Vec::new(),
    };
    match parser.command() {
        Ok((word, arguments)) => Parsed::Command {
            tag: parser.tag,
            word,
            arguments,
            len: parser.at,
        },
        Err(Stop::Incomplete) => Parsed::Incomplete {
            tag: parser.tag,
            needs: parser.needs,
        },
        Err(Stop::Literal(at, size)) => Parsed::Literal { at, size },
        Err(Stop::TooLong) => Parsed::TooLong { tag: parser.tag },
        Err(Stop::Bad) => parser.bad_line(),
    }
}

/// Reads a backend's whole answer to ID, `* ID …` with its line end and its literals, into the strings of its
/// list, each `NIL` an empty one; `None` if it is none.
pub(super) fn parse_id_answer(answer: &[u8]) -> Option<Vec<Argument>> {
    let (start, _) = answer.split_at_checked(ID_ANSWER.len())?;
    if !start.eq_ignore_ascii_case(ID_ANSWER) {
        return None;
    }
    let mut parser = Parser {
        input: answer,
        at: ID_ANSWER.len() - 1,
        // Its literals are all there.
        answered: usize::MAX,
        limit: usize::MAX,
        needs: 0,
        tag: Vec::new(),
    };
    let arguments = parser.read_id_arguments().ok()?;
    (parser.at == answer.len()).then_some(arguments)
}

/// Why a command could not be read.
enum Stop {
    Incomplete,
    Literal(usize, usize),
    TooLong,
    Bad,
}

struct Parser<'a> {
    input: &'a [u8],
    at: usize,
    answered: usize,
    limit: usize,
    /// Where the literal ends that is not there yet.
    needs: usize,
    tag: Vec<u8>,
}

impl Parser<'_> {
    fn command(&mut self) -> Result<(Word, Vec<Argument>), Stop> {
        self.read_tag()?;
        self.skip_spaces();
        let word = self.read_word()?;
        let arguments = match word {
            Word::Id => self.read_id_arguments()?,
            _ => self.read_arguments()?,
        };
        Ok((word, arguments))
    }

    fn peek(&self) -> Result<u8, Stop> {
        self.input.get(self.at).copied().ok_or(Stop::Incomplete)
    }

    fn skip_spaces(&mut self) {
        while self.input.get(self.at) == Some(&b' ') {
            self.at += 1;
        }
    }

    /// The tag and the space behind it.
    fn read_tag(&mut self) -> Result<(), Stop> {
        loop {
            match self.peek()? {
                b' ' if self.at > 0 => break,
                byte if is_tag_char(byte) && self.at < TAG => self.at += 1,
                _ => return Err(Stop::Bad),
            }
        }
        self.tag = self.input[..self.at].to_vec();
        self.at += 1;
        Ok(())
    }

    fn read_word(&mut self) -> Result<Word, Stop> {
        let start = self.at;
        while !matches!(self.peek()?, b' ' | b'\r' | b'\n') {
            self.at += 1;
        }
        let word = &self.input[start..self.at];
        WORDS
            .iter()
            .find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes()))
            .map(|&(_, word)| word)
            .ok_or(Stop::Bad)
    }

    /// Arguments up to the end of the line. Behind each stands a space or the line end.
    fn read_arguments(&mut self) -> Result<Vec<Argument>, Stop> {
        let mut arguments = Vec::new();
        loop {
            if self.read_line_end()? {
                return Ok(arguments);
            }
            if self.peek()? != b' ' {
                return Err(Stop::Bad);
            }
            self.skip_spaces();
            if self.read_line_end()? {
                return Ok(arguments);
            }
            if arguments.len() == ARGUMENTS {
                return Err(Stop::Bad);
            }
            arguments.push(match self.peek()? {
                b'"' => self.read_quoted()?,
                b'{' => self.read_literal()?,
                _ => self.read_atom()?,
            });
        }
    }

    /// The arguments of ID (RFC 2971): `NIL`, which has none, or one list of strings, of which each `NIL` is
    /// an empty one.
    fn read_id_arguments(&mut self) -> Result<Vec<Argument>, Stop> {
        let mut arguments = Vec::new();
        let mut open = false;
        let mut seen = false;
        loop {
            let end = self.at;
            if self.read_line_end()? {
                if open || !seen {
                    self.at = end;
                    return Err(Stop::Bad);
                }
                return Ok(arguments);
            }
            match self.peek()? {
                b' ' => self.skip_spaces(),
                b'(' if !open && !seen => {
                    self.at += 1;
                    (open, seen) = (true, true);
                }
                b')' if open => {
                    self.at += 1;
                    open = false;
                }
                b'"' if open => arguments.push(self.read_quoted()?),
                b'{' if open => arguments.push(self.read_literal()?),
                _ if open || !seen => {
                    let atom = self.read_atom()?;
                    // An atom takes the list's end with it.
                    let ends_list = open && atom.ends_with(b")");
                    let name = atom
                        .strip_suffix(b")")
                        .filter(|_| ends_list)
                        .unwrap_or(&atom);
                    if !name.eq_ignore_ascii_case(b"NIL") {
                        return Err(Stop::Bad);
                    }
                    if open {
                        arguments.push(Argument::default());
                    }
                    open = open && !ends_list;
                    seen = true;
                }
                _ => return Err(Stop::Bad),
            }
        }
    }

    /// Takes a CRLF or a bare LF, if that is what comes.
    fn read_line_end(&mut self) -> Result<bool, Stop> {
        match self.peek()? {
            b'\n' => {
                self.at += 1;
                Ok(true)
            }
            b'\r' => match self.input.get(self.at + 1) {
                None => Err(Stop::Incomplete),
                Some(b'\n') => {
                    self.at += 2;
                    Ok(true)
                }
                Some(_) => Err(Stop::Bad),
            },
            _ => Ok(false),
        }
    }

    fn read_atom(&mut self) -> Result<Argument, Stop> {
        let start = self.at;
        loop {
            match self.peek()? {
                b' ' | b'\r' | b'\n' => break,
                0 => return Err(Stop::Bad),
                _ => self.at += 1,
            }
        }
        Ok(Zeroizing::new(self.input[start..self.at].to_vec()))
    }

    /// Finds the end before it allocates: what grew would leave copies behind that nobody wipes.
    fn read_quoted(&mut self) -> Result<Argument, Stop> {
        self.at += 1;
        let start = self.at;
        let len = self.skip_quoted()?;
        let mut text = Zeroizing::new(Vec::with_capacity(len));
        let mut quoted = self.input[start..self.at - 1].iter();
        while let Some(&byte) = quoted.next() {
            text.extend(match byte {
                b'\\' => quoted.next().copied(),
                _ => Some(byte),
            });
        }
        Ok(text)
    }

    /// Passes a quoted string behind its first quote, and the quote at its end. Counts its bytes,
    /// of which an escaped one is one.
    fn skip_quoted(&mut self) -> Result<usize, Stop> {
        let mut len = 0;
        loop {
            let mut byte = self.peek()?;
            self.at += 1;
            match byte {
                b'"' => return Ok(len),
                b'\\' => {
                    byte = self.peek()?;
                    self.at += 1;
                }
                _ => {}
            }
            if matches!(byte, b'\r' | b'\n' | 0) {
                self.at -= 1;
                return Err(Stop::Bad);
            }
            len += 1;
        }
    }

    /// `{n}` or `{n+}` (RFC 7888), its line end, and n bytes.
    fn read_literal(&mut self) -> Result<Argument, Stop> {
        self.at += 1;
        let digits = self.at;
        let mut size = 0_usize;
        while let digit @ b'0'..=b'9' = self.peek()? {
            size = size
                .checked_mul(10)
                .and_then(|size| size.checked_add(usize::from(digit - b'0')))
                .ok_or(Stop::Bad)?;
            self.at += 1;
        }
        if self.at == digits {
            return Err(Stop::Bad);
        }
        let waits = self.peek()? != b'+';
        if !waits {
            self.at += 1;
        }
        if self.peek()? != b'}' {
            return Err(Stop::Bad);
        }
        self.at += 1;
        // The end of the line, of which a bare CR is none.
        self.peek()?;
        if !self.read_line_end()? {
            return Err(Stop::Bad);
        }
        if waits && self.answered < self.at {
            return Err(Stop::Literal(self.at, size));
        }
        let end = self.at.saturating_add(size);
        // The line end behind it must fit as well; of a literal that waits the caller sees to that.
        if !waits && end.saturating_add(2) > self.limit {
            return Err(Stop::TooLong);
        }
        let Some(bytes) = self.input.get(self.at..end) else {
            self.needs = end;
            return Err(Stop::Incomplete);
        };
        self.at = end;
        Ok(Zeroizing::new(bytes.to_vec()))
    }

    /// The rest of a line that is no command.
    fn bad_line(&mut self) -> Parsed {
        let Some(lf) = self.input[self.at..].iter().position(|&byte| byte == b'\n') else {
            return Parsed::Incomplete {
                tag: std::mem::take(&mut self.tag),
                needs: 0,
            };
        };
        let len = self.at + lf + 1;
        let start = self.answered.min(self.at);
        Parsed::Bad {
            tag: std::mem::take(&mut self.tag),
            len,
            runs_on: ends_in_running_literal(&self.input[start..len]),
        }
    }
}

/// RFC 9051, section 9: any ASTRING-CHAR but `+`.
fn is_tag_char(byte: u8) -> bool {
    const SPECIAL: &[u8] = b"(){%*\"\\+";
    byte.is_ascii_graphic() && !SPECIAL.contains(&byte)
}

/// Whether a line ends in `{n+}`.
fn ends_in_running_literal(line: &[u8]) -> bool {
    let line = crate::net::line::without_end(line);
    let Some(digits) = line.strip_suffix(b"+}") else {
        return false;
    };
    let count = digits
        .iter()
        .rev()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    count > 0 && digits[..digits.len() - count].ends_with(b"{")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 16 * 1024;

    fn command(input: &[u8], answered: usize) -> (Word, Vec<Vec<u8>>, usize) {
        match parse(input, answered, LIMIT) {
            Parsed::Command {
                word,
                arguments,
                len,
                ..
            } => {
                let arguments = arguments.iter().map(|argument| argument.to_vec());
                (word, arguments.collect(), len)
            }
            other => panic!("{other:?}"),
        }
    }

    fn is_incomplete(parsed: Parsed) -> bool {
        matches!(parsed, Parsed::Incomplete { .. })
    }

    fn is_bad(input: &[u8]) -> bool {
        matches!(parse(input, 0, LIMIT), Parsed::Bad { .. })
    }

    #[test]
    fn every_prefix_of_a_command_is_incomplete() {
        let input = b"a1 LOGIN \"b \\\"o\\\\b\" {4+}\r\np{3} \r\n";
        for end in 0..input.len() {
            assert!(is_incomplete(parse(&input[..end], 0, LIMIT)), "{end}");
        }
        let (word, arguments, len) = command(input, 0);
        assert_eq!(word, Word::Login);
        assert_eq!(arguments, [&b"b \"o\\b"[..], b"p{3}"]);
        assert_eq!(len, input.len());
    }

    #[test]
    fn a_synchronizing_literal_waits_for_its_answer() {
        let input = b"a LOGIN {3}\r\nbob {2}\r\npw\r\n";
        assert_eq!(parse(input, 0, LIMIT), Parsed::Literal { at: 13, size: 3 });
        assert_eq!(parse(input, 13, LIMIT), Parsed::Literal { at: 22, size: 2 });
        assert_eq!(command(input, 22).1, [&b"bob"[..], b"pw"]);
    }

    #[test]
    fn empty_literals_are_empty_strings() {
        assert_eq!(
            command(b"a LOGIN {0+}\r\n {0+}\r\n\r\n", 0).1,
            [&b""[..], b""]
        );
    }

    #[test]
    fn a_literal_has_digits_and_no_overflow() {
        for size in [
            "{}",
            "{+}",
            "{-1}",
            "{1 }",
            "{a}",
            "{99999999999999999999999}",
            "{1++}",
        ] {
            assert!(is_bad(format!("a LOGIN {size}\r\n").as_bytes()), "{size}");
        }
    }

    #[test]
    fn what_follows_a_string_is_a_space_or_the_line_end() {
        assert!(is_bad(b"a LOGIN \"bob\"x pw\r\n"));
        assert!(is_bad(b"a LOGIN {3+}\r\nbobx pw\r\n"));
    }

    #[test]
    fn quoted_strings_hold_no_line_end_and_no_nul() {
        assert!(is_bad(b"a LOGIN \"bo\r\n"));
        assert!(is_bad(b"a LOGIN \"bo\\\r\n"));
        assert!(is_bad(b"a LOGIN \"bo\0b\" pw\r\n"));
    }

    #[test]
    fn a_quoted_string_takes_no_more_memory_than_it_is_long() {
        let behind = "x".repeat(8000);
        for quoted in [r#""""#, r#""bob""#, r#""b\"o\\b""#] {
            let input = format!("a LOGIN {quoted} {behind}\r\n");
            let Parsed::Command { arguments, .. } = parse(input.as_bytes(), 0, LIMIT) else {
                panic!("{quoted}");
            };
            assert_eq!(arguments[0].capacity(), arguments[0].len(), "{quoted}");
        }
    }

    #[test]
    fn a_quote_is_special_only_at_the_start_of_an_argument() {
        assert_eq!(
            command(b"a LOGIN b\"ob p\"w\r\n", 0).1,
            [&b"b\"ob"[..], b"p\"w"]
        );
    }

    #[test]
    fn a_tag_is_what_rfc_9051_allows_up_to_128_characters() {
        let tag = |input: &[u8]| match parse(input, 0, LIMIT) {
            Parsed::Bad { tag, .. } | Parsed::Command { tag, .. } => tag,
            other => panic!("{other:?}"),
        };
        let longest = "A".repeat(128);
        assert_eq!(
            tag(format!("{longest} NOOP\r\n").as_bytes()),
            longest.as_bytes()
        );
        assert_eq!(tag(format!("{longest}A NOOP\r\n").as_bytes()), b"");
        for good in ["a/1", "5~#~x", "a]", "<a>", "'`!$&,-.:;=?@^_|}", "[", "1"] {
            assert_eq!(tag(format!("{good} NOOP\r\n").as_bytes()), good.as_bytes());
        }
        for bad in [
            "+", "a+b", "*", "a(", "a)", "a{", "a%", "a\"", "a\\", "\x7f", "\0", "\t", "t\u{f6}g",
        ] {
            assert_eq!(tag(format!("{bad} NOOP\r\n").as_bytes()), b"", "{bad}");
        }
        assert_eq!(tag(b"\r\n"), b"");
        assert_eq!(tag(b" NOOP\r\n"), b"");
        assert_eq!(tag(b"a\r\n"), b"");
        assert_eq!(tag(b"a FOO\r\n"), b"a");
    }

    #[test]
    fn a_fourth_argument_is_bad() {
        assert_eq!(command(b"a NOOP 1 \"2\" {1+}\r\n3\r\n", 0).1.len(), 3);
        assert!(is_bad(b"a NOOP 1 2 3 4\r\n"));
    }

    #[test]
    fn a_bad_line_that_ends_in_a_running_literal_is_told() {
        let runs_on = |input: &[u8]| match parse(input, 0, LIMIT) {
            Parsed::Bad { runs_on, .. } => runs_on,
            other => panic!("{other:?}"),
        };
        assert!(runs_on(b"a FOO {5+}\r\n"));
        assert!(runs_on(b"a NOOP 1 2 3 {5+}\n"));
        assert!(!runs_on(b"a FOO {5}\r\n"));
        assert!(!runs_on(b"a FOO {+}\r\n"));
    }

    #[test]
    fn id_takes_nil_or_one_list() {
        for good in [
            &b"a ID NIL\r\n"[..],
            b"a ID nil\r\n",
            b"a ID ()\r\n",
            b"a ID (\"name\" \"x)\" \"os\" NIL)\r\n",
            b"a ID (\"name\" {3+}\r\n\r\n) \"v\" \"1\")\r\n",
        ] {
            assert_eq!(command(good, 0).0, Word::Id, "{good:?}");
        }
        for bad in [
            &b"a ID\r\n"[..],
            b"a ID (\r\n",
            b"a ID ((\"a\"))\r\n",
            b"a ID () ()\r\n",
            b"a ID (\"a\") x\r\n",
            b"a ID bob\r\n",
        ] {
            assert!(is_bad(bad), "{bad:?}");
        }
    }

    #[test]
    fn an_answer_to_id_is_one_list_with_its_literals() {
        let strings = |answer: &[u8]| {
            let strings = parse_id_answer(answer)?;
            Some(strings.iter().map(|text| text.to_vec()).collect::<Vec<_>>())
        };
        assert_eq!(strings(b"* ID NIL\r\n"), Some(Vec::new()));
        let told = strings(b"* id (\"name\" {3}\r\na)b \"os\" NIL)\r\n");
        assert_eq!(
            told,
            Some(
                [&b"name"[..], b"a)b", b"os", b""]
                    .map(<[u8]>::to_vec)
                    .to_vec()
            )
        );
        for bad in [
            &b"* IDLE\r\n"[..],
            b"* ID\r\n",
            b"* ID (\"a\" \"b\")",
            b"* ID (\"a\" \"b\"\r\n",
            b"* ID (\"a\" {9}\r\nb)\r\n",
            b"* ID NIL\r\nx\r\n",
        ] {
            assert_eq!(strings(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_bare_lf_ends_a_line_and_a_bare_cr_does_not() {
        assert_eq!(command(b"a NOOP\nb", 0).2, 7);
        assert!(is_bad(b"a NOOP\rx\n"));
    }

    #[test]
    fn a_running_literal_that_does_not_fit_is_told_at_once() {
        let parsed = parse(b"a LOGIN {90+}\r\n", 0, 100);
        assert_eq!(parsed, Parsed::TooLong { tag: b"a".to_vec() });
        assert!(is_incomplete(parse(b"a LOGIN {83+}\r\n", 0, 100)));
    }
}
