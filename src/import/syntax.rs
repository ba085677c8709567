//! nginx's configuration syntax: text in, words, statements and comments out.
//!
//! Follows nginx's own reader: quotes, backslashes and where a `{` is no block. Which files there
//! are and what directives mean is not known here.

/// Longest word, in bytes; nginx's own limit.
const MAX_WORD: usize = 4096;

/// What a configuration is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    /// A name or value, without its quotes.
    Word(String),
    /// `# …` up to the end of its line.
    Comment(String),
    /// `;`
    End,
    /// `{`
    Open,
    /// `}`
    Close,
    /// The end of the text.
    Nothing,
}

/// Takes one file apart.
#[derive(Debug)]
pub(super) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    blank: bool,
}

impl<'a> Lexer<'a> {
    /// At the beginning of a file's text.
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text: text.strip_prefix('\u{feff}').unwrap_or(text),
            at: 0,
            line: 1,
            blank: false,
        }
    }

    /// Line of what was read last, from 1.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// Whether an empty line stood before what was read last.
    pub(super) fn after_blank_line(&self) -> bool {
        self.blank
    }

    /// The next token; an error says what is wrong in the current line.
    pub(super) fn next(&mut self) -> Result<Token, String> {
        self.skip_space();
        let Some(first) = self.peek() else {
            return Ok(Token::Nothing);
        };
        let single = match first {
            b';' => Token::End,
            b'{' => Token::Open,
            b'}' => Token::Close,
            b'#' => return Ok(self.comment()),
            b'"' | b'\'' => return self.quoted(first),
            _ => return self.bare(),
        };
        self.at += 1;
        Ok(single)
    }

    /// Leaves out everything up to the `}` of a block of Lua, whose `{` was read already.
    pub(super) fn skip_lua(&mut self) -> Result<(), String> {
        let mut depth = 1usize;
        while let Some(byte) = self.peek() {
            let rest = &self.text[self.at..];
            if let Some(long) = rest.strip_prefix("--[[").or(rest.strip_prefix("[[")) {
                let length = long
                    .find("]]")
                    .map_or(rest.len(), |end| rest.len() - long.len() + end + "]]".len());
                self.advance(length);
                continue;
            }
            if rest.starts_with("--") {
                self.advance(rest.find('\n').unwrap_or(rest.len()));
                continue;
            }
            match byte {
                b'"' | b'\'' => {
                    let length = closing(rest.as_bytes(), byte).unwrap_or(rest.len());
                    self.advance(length);
                    continue;
                }
                b'{' => depth += 1,
                b'}' => depth -= 1,
                _ => {}
            }
            self.advance_one(byte);
            if depth == 0 {
                return Ok(());
            }
        }
        Err("the file ends within a block of Lua: a `}` is missing".to_owned())
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Over one byte that is looked at alone; the others of its character follow likewise.
    fn advance_one(&mut self, byte: u8) {
        let width = self.text[self.at..]
            .chars()
            .next()
            .map_or(1, char::len_utf8);
        self.at += width;
        self.line += usize::from(byte == b'\n');
    }

    fn advance(&mut self, length: usize) {
        let passed = &self.text[self.at..self.at + length];
        self.line += passed.matches('\n').count();
        self.at += length;
    }

    fn skip_space(&mut self) {
        let mut lines = 0;
        while let Some(byte @ (b' ' | b'\t' | b'\r' | b'\n')) = self.peek() {
            lines += usize::from(byte == b'\n');
            self.at += 1;
        }
        self.line += lines;
        self.blank = lines > 1;
    }

    fn comment(&mut self) -> Token {
        let rest = &self.text[self.at..];
        let end = rest.find('\n').unwrap_or(rest.len());
        self.at += end;
        Token::Comment(rest[..end].trim_end().to_owned())
    }

    fn quoted(&mut self, quote: u8) -> Result<Token, String> {
        let rest = &self.text[self.at..];
        let Some(length) = closing(rest.as_bytes(), quote) else {
            return Err(format!("the closing {} is missing", char::from(quote)));
        };
        let word = word(&rest[1..length - 1])?;
        self.advance(length);
        match self.peek() {
            // As in `if ($a = "b") {`, where `)` is a word of its own.
            None | Some(b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{' | b')') => Ok(Token::Word(word)),
            Some(_) => {
                let next = self.text[self.at..].chars().next().unwrap_or_default();
                Err(format!("unexpected `{next}` behind a closing quote"))
            }
        }
    }

    fn bare(&mut self) -> Result<Token, String> {
        let bytes = &self.text.as_bytes()[self.at..];
        let mut length = 0;
        while let Some(byte) = bytes.get(length) {
            match byte {
                b'\\' => length += 1,
                // As in `${name}`.
                b'{' if length > 0 && bytes[length - 1] == b'$' => {}
                b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{' => break,
                _ => {}
            }
            length += 1;
        }
        let mut length = length.min(bytes.len());
        // A backslash may have stood before a character of several bytes.
        while !self.text.is_char_boundary(self.at + length) {
            length += 1;
        }
        let word = word(&self.text[self.at..self.at + length])?;
        self.advance(length);
        Ok(Token::Word(word))
    }
}

/// Length of a quoted text with both its quotes; `None` if the second one is missing.
fn closing(bytes: &[u8], quote: u8) -> Option<usize> {
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            byte if byte == quote => return Some(at + 1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// A word without its escapes: `\"` `\'` `\\` `\t` `\r` `\n`; other backslashes stay.
fn word(raw: &str) -> Result<String, String> {
    if raw.len() > MAX_WORD {
        return Err(format!(
            "a word is longer than {MAX_WORD} bytes: is a quote or `;` missing?"
        ));
    }
    let mut word = String::with_capacity(raw.len());
    let mut chars = raw.chars().peekable();
    while let Some(c) = chars.next() {
        let escaped = match (c, chars.peek()) {
            ('\\', Some(next @ ('"' | '\'' | '\\'))) => *next,
            ('\\', Some('t')) => '\t',
            ('\\', Some('r')) => '\r',
            ('\\', Some('n')) => '\n',
            _ => {
                word.push(c);
                continue;
            }
        };
        word.push(escaped);
        chars.next();
    }
    Ok(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Result<Vec<Token>, String> {
        let mut lexer = Lexer::new(text);
        let mut tokens = Vec::new();
        loop {
            match lexer.next()? {
                Token::Nothing => return Ok(tokens),
                token => tokens.push(token),
            }
        }
    }

    fn words(text: &str) -> Vec<String> {
        let tokens = tokens(text).expect(text);
        let words = tokens.into_iter().filter_map(|token| match token {
            Token::Word(word) => Some(word),
            _ => None,
        });
        words.collect()
    }

    #[test]
    fn words_end_at_space_semicolon_and_brace() {
        assert_eq!(words("a b\tc;d{e}f"), ["a", "b", "c", "d", "e}f"]);
        assert_eq!(words("a#b \\#c \\;"), ["a#b", "\\#c", "\\;"]);
        assert_eq!(words("${a}b $c{"), ["${a}b", "$c"]);
    }

    #[test]
    fn quotes_keep_everything_and_have_escapes() {
        assert_eq!(
            words(r#""a ; # {" 'b"c' "d\"e" 'f\'g' """#),
            ["a ; # {", "b\"c", "d\"e", "f'g", ""]
        );
        assert_eq!(words(r#""a\\b\tc\d""#), ["a\\b\tc\\d"]);
        assert_eq!(words("\"a\nb\""), ["a\nb"]);
        assert_eq!(words("(a \"b\"){"), ["(a", "b", ")"]);
        assert!(tokens("\"a\"b").is_err() && tokens("'a").is_err() && tokens("\"a\\\"").is_err());
    }

    #[test]
    fn lines_and_blank_lines_are_counted() {
        let mut lexer = Lexer::new("\u{feff}a\n\n# b\n'c\nd' e");
        lexer.next().expect("a");
        assert_eq!((lexer.line(), lexer.after_blank_line()), (1, false));
        assert_eq!(lexer.next(), Ok(Token::Comment("# b".to_owned())));
        assert_eq!((lexer.line(), lexer.after_blank_line()), (3, true));
        lexer.next().expect("c");
        lexer.next().expect("e");
        assert_eq!((lexer.line(), lexer.after_blank_line()), (5, false));
    }

    #[test]
    fn lua_is_left_out_with_its_braces_and_quotes() {
        let mut lexer = Lexer::new("x = '}' -- }\n y = { [[ } ]], \"\\\"}\" } --[[ } ]]\n} é;");
        assert_eq!(lexer.skip_lua(), Ok(()));
        assert_eq!(lexer.next(), Ok(Token::Word("é".to_owned())));
        assert_eq!(lexer.line(), 3);
        assert!(Lexer::new("é { }").skip_lua().is_err());
    }

    #[test]
    fn odd_text_does_not_panic() {
        let long = "é".repeat(3000);
        for text in ["", "\\", "é\\é", "\"\\", "'é", "\\é;", "--", "[[", &long] {
            let _ = tokens(text);
            let _ = Lexer::new(text).skip_lua();
        }
        assert!(tokens(&long).is_err());
    }
}
