//! One POP3 command line as bytes (RFC 1939, section 3). No I/O.

use zeroize::Zeroizing;

/// Most arguments of a command.
const ARGUMENTS: usize = 3;

/// An argument; wiped, since one of them is a password.
pub(super) type Argument = Zeroizing<Vec<u8>>;

/// The commands known before login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    User,
    Pass,
    Apop,
    Auth,
    Capa,
    Quit,
    Noop,
    Stls,
}

/// The words as they are spelt.
pub(super) const WORDS: [(&str, Word); 8] = [
    ("USER", Word::User),
    ("PASS", Word::Pass),
    ("APOP", Word::Apop),
    ("AUTH", Word::Auth),
    ("CAPA", Word::Capa),
    ("QUIT", Word::Quit),
    ("NOOP", Word::Noop),
    ("STLS", Word::Stls),
];

/// Reads a line, its end cut off; `None` if it is no command.
pub(super) fn parse(line: &[u8]) -> Option<(Word, Vec<Argument>)> {
    if line.contains(&b'\r') {
        return None;
    }
    let end = line
        .iter()
        .position(|&byte| byte == b' ')
        .unwrap_or(line.len());
    let (word, rest) = line.split_at(end);
    let word = WORDS
        .iter()
        .find(|(name, _)| word.eq_ignore_ascii_case(name.as_bytes()))
        .map(|&(_, word)| word)?;
    let arguments = match word {
        // Everything behind the leading spaces: passwords have spaces.
        Word::User | Word::Pass => {
            let text = rest
                .iter()
                .position(|&byte| byte != b' ')
                .map(|at| &rest[at..]);
            text.into_iter().map(argument).collect()
        }
        _ => rest
            .split(|&byte| byte == b' ')
            .filter(|text| !text.is_empty())
            .map(argument)
            .collect::<Vec<_>>(),
    };
    (arguments.len() <= ARGUMENTS).then_some((word, arguments))
}

fn argument(text: &[u8]) -> Argument {
    Zeroizing::new(text.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &[u8]) -> (Word, Vec<Vec<u8>>) {
        let (word, arguments) = parse(line).expect("a command");
        (
            word,
            arguments.iter().map(|argument| argument.to_vec()).collect(),
        )
    }

    #[test]
    fn user_and_pass_take_the_rest_of_the_line() {
        assert_eq!(read(b"PASS  a b  "), (Word::Pass, vec![b"a b  ".to_vec()]));
        assert_eq!(
            read(b"user bob smith"),
            (Word::User, vec![b"bob smith".to_vec()])
        );
        assert_eq!(read(b"PASS"), (Word::Pass, vec![]));
        assert_eq!(read(b"USER   "), (Word::User, vec![]));
    }

    #[test]
    fn other_commands_have_three_arguments_at_most() {
        assert_eq!(read(b"NOOP  1 2  3 ").1.len(), 3);
        assert!(parse(b"NOOP 1 2 3 4").is_none());
    }

    #[test]
    fn unknown_words_and_bare_cr_are_no_commands() {
        for bad in [
            &b""[..],
            b" NOOP",
            b"STAT",
            b"NOOPS",
            b"NOOP\rx",
            b"PASS a\rb",
        ] {
            assert!(parse(bad).is_none(), "{bad:?}");
        }
    }
}
