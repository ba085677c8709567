//! A configuration with its includes as a tree of directives, each with its place and comments.
//!
//! Only `mail {}`, its `server {}`, what stands beside them and the blocks of `KEPT` is kept; other
//! blocks are read over, and their includes are not followed. The output of `nginx -T` is many files in
//! one, see `dump`. What directives mean is not known here.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::dump::Dump;
use super::syntax::{Lexer, Token};

/// Most bytes of all files together.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Most files, each counted as often as it is included.
const MAX_FILES: usize = 1000;

/// How deep includes may be nested.
const MAX_INCLUDES: usize = 16;

/// How deep blocks may be nested.
const MAX_BLOCKS: usize = 64;

/// Further blocks of the main file whose directives matter, with all blocks in them.
const KEPT: [&str; 3] = ["events", "stream", "zm_lookup"];

/// How the C library reads patterns.
const PATTERNS: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

/// Where something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileLine {
    /// Which of the tree's files.
    pub(super) file: usize,
    /// Line, from 1.
    pub(super) line: usize,
}

/// `name argument … ;` or `name argument … { … }`.
#[derive(Debug, Clone)]
pub(super) struct Directive {
    /// Its first word.
    pub(super) name: String,
    /// The other words.
    pub(super) arguments: Vec<String>,
    /// Where its first word stands.
    pub(super) place: FileLine,
    /// Comments before it and behind it on its line, each with its `#`; empty lines are `""`.
    pub(super) comments: Vec<String>,
    /// What stands in its braces.
    pub(super) block: Option<Block>,
}

impl Directive {
    /// `server { … }`
    pub(super) fn is_server(&self) -> bool {
        self.name == "server" && self.block.is_some()
    }
}

/// What stands in braces, or in the main file.
#[derive(Debug, Clone, Default)]
pub(super) struct Block {
    /// Its directives, those of included files among them; empty where they do not matter.
    pub(super) directives: Vec<Directive>,
    /// Comments before its end.
    pub(super) comments: Vec<String>,
}

/// Everything that was read.
#[derive(Debug)]
pub(super) struct Tree {
    /// Names of the files, as messages call them.
    pub(super) files: Vec<String>,
    /// The main file, which others are relative to.
    pub(super) path: PathBuf,
    /// What stands outside all braces.
    pub(super) main: Block,
    /// Each `server {}` of a file that is part of the output of `nginx -T`, and that no include leads
    /// to.
    pub(super) astray: Vec<Directive>,
}

impl Tree {
    /// Reads a file and what it includes.
    ///
    /// # Errors
    /// The first thing that is no configuration, as `FILE:LINE: text`.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let mut reader = Reader {
            folder: PathBuf::new(),
            dump: None,
            files: Vec::new(),
            opened: 0,
            bytes: 0,
        };
        let no_file = |error| format!("{}: {error}", path.display());
        let text = reader.load(path).map_err(no_file)?;
        reader.dump = Dump::of(&text);
        let path = match &reader.dump {
            Some(dump) => dump.main().to_owned(),
            None => path.to_owned(),
        };
        reader.folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let (file, text) = match &mut reader.dump {
            Some(_) => reader.open(&path)?,
            None => (reader.number(&path), text),
        };
        let main = reader.file(&text, file, 0, Context::Main)?;
        let astray = reader.astray();
        Ok(Self {
            files: reader.files,
            path,
            main,
            astray,
        })
    }

    /// `FILE:LINE` for messages.
    pub(super) fn show(&self, place: FileLine) -> String {
        format!("{}:{}", self.files[place.file], place.line)
    }
}

/// Which block is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Context {
    Main,
    Mail,
    Server,
    Kept,
    Other,
}

impl Context {
    fn of_block(self, name: &str) -> Self {
        match (self, name) {
            (Self::Main, "mail") => Self::Mail,
            (Self::Mail, "server") => Self::Server,
            (Self::Main, name) if KEPT.contains(&name) => Self::Kept,
            (Self::Kept, _) => Self::Kept,
            _ => Self::Other,
        }
    }
}

struct Source<'a> {
    file: usize,
    lexer: Lexer<'a>,
    /// Includes around this file.
    depth: usize,
}

impl<'a> Source<'a> {
    fn new(file: usize, text: &'a str, depth: usize) -> Self {
        Self {
            file,
            lexer: Lexer::new(text),
            depth,
        }
    }

    fn place(&self) -> FileLine {
        FileLine {
            file: self.file,
            line: self.lexer.line(),
        }
    }
}

struct Reader {
    /// What included names are relative to.
    folder: PathBuf,
    /// Where all files are, if not on disk.
    dump: Option<Dump>,
    files: Vec<String>,
    opened: usize,
    bytes: usize,
}

impl Reader {
    /// Everything in a file that is not included within a block.
    fn file(
        &mut self,
        text: &str,
        file: usize,
        depth: usize,
        context: Context,
    ) -> Result<Block, String> {
        let mut source = Source::new(file, text, depth);
        let (mut block, mut comments) = (Block::default(), Vec::new());
        self.block(&mut source, context, 0, &mut block, &mut comments)?;
        block.comments = comments;
        Ok(block)
    }

    /// The servers of a dump's files that nothing includes. What is wrong in such a file is left out.
    fn astray(&mut self) -> Vec<Directive> {
        let mut servers = Vec::new();
        while let Some(path) = self.dump.as_ref().and_then(Dump::unread) {
            let opened = self.open(&path);
            let read = opened.and_then(|(file, text)| self.file(&text, file, 0, Context::Main));
            let directives = read.unwrap_or_default().directives.into_iter();
            servers.extend(directives.filter(Directive::is_server));
        }
        servers
    }

    /// Reads up to the block's `}`, or to the file's end when `depth` is 0. `comments` are those
    /// that belong to what comes next.
    fn block(
        &mut self,
        source: &mut Source<'_>,
        context: Context,
        depth: usize,
        block: &mut Block,
        comments: &mut Vec<String>,
    ) -> Result<(), String> {
        let start = source.place();
        let mut last_line = 0;
        loop {
            let token = self.token(source)?;
            if source.lexer.after_blank_line() && !comments.is_empty() {
                comments.push(String::new());
            }
            match token {
                Token::Comment(text) => match block.directives.last_mut() {
                    Some(last) if source.lexer.line() == last_line => match &mut last.block {
                        Some(inner) => inner.comments.push(text),
                        None => last.comments.push(text),
                    },
                    _ => comments.push(text),
                },
                Token::Word(name) => {
                    self.statement(source, (context, depth), name, block, comments)?;
                    last_line = source.lexer.line();
                }
                Token::Nothing if depth == 0 => return Ok(()),
                Token::Nothing => {
                    let line = start.line;
                    let text = format!("the file ends, but the block of line {line} needs a `}}`");
                    return Err(self.error(source, &text));
                }
                Token::Close if depth > 0 => return Ok(()),
                Token::Close => return Err(self.error(source, "unexpected `}`")),
                Token::Open => return Err(self.error(source, "unexpected `{`")),
                Token::End => return Err(self.error(source, "unexpected `;`")),
            }
        }
    }

    fn statement(
        &mut self,
        source: &mut Source<'_>,
        (context, depth): (Context, usize),
        name: String,
        block: &mut Block,
        comments: &mut Vec<String>,
    ) -> Result<(), String> {
        let place = source.place();
        let mut arguments = Vec::new();
        let opens = loop {
            match self.token(source)? {
                Token::Word(word) => arguments.push(word),
                Token::Comment(text) => comments.push(text),
                Token::End => break false,
                Token::Open => break true,
                Token::Close | Token::Nothing => {
                    let text = format!("`{}` is not ended by a `;`", shown(&name));
                    return Err(self.error_at(place, &text));
                }
            }
        };
        if name == "include" && !opens {
            if context != Context::Other {
                return self.include(source, context, (&arguments, place), block, comments);
            }
            self.note_include(source, &arguments);
        }
        let mut directive = Directive {
            name,
            arguments,
            place,
            comments: std::mem::take(comments),
            block: None,
        };
        if opens {
            directive.block = Some(self.inner(source, context, depth, &directive.name)?);
        }
        if context != Context::Other {
            block.directives.push(directive);
        }
        Ok(())
    }

    fn inner(
        &mut self,
        source: &mut Source<'_>,
        context: Context,
        depth: usize,
        name: &str,
    ) -> Result<Block, String> {
        if depth >= MAX_BLOCKS {
            let text = format!("blocks are nested deeper than {MAX_BLOCKS}");
            return Err(self.error(source, &text));
        }
        let mut block = Block::default();
        if name.ends_with("_by_lua_block") {
            let skipped = source.lexer.skip_lua();
            return skipped
                .map(|()| block)
                .map_err(|text| self.error(source, &text));
        }
        let mut comments = Vec::new();
        let context = context.of_block(name);
        self.block(source, context, depth + 1, &mut block, &mut comments)?;
        block.comments = comments;
        Ok(block)
    }

    fn include(
        &mut self,
        source: &Source<'_>,
        context: Context,
        (arguments, place): (&[String], FileLine),
        block: &mut Block,
        comments: &mut Vec<String>,
    ) -> Result<(), String> {
        let [pattern] = arguments else {
            return Err(self.error_at(place, "include takes one file name or pattern"));
        };
        if source.depth >= MAX_INCLUDES {
            let text = format!(
                "includes are nested deeper than {MAX_INCLUDES}: does a file include itself?"
            );
            return Err(self.error_at(place, &text));
        }
        let found = self
            .find(pattern)
            .map_err(|text| self.error_at(place, &text))?;
        for path in found {
            let opened = self.open(&path);
            let (file, text) = opened.map_err(|error| {
                let path = path.display();
                self.error_at(place, &format!("{path}: {error}"))
            })?;
            let mut inner = Source::new(file, &text, source.depth + 1);
            self.block(&mut inner, context, 0, block, comments)?;
        }
        Ok(())
    }

    /// What is read over includes files too, which are part of a dump and not astray in it. Each is
    /// looked at once.
    fn note_include(&mut self, source: &Source<'_>, arguments: &[String]) {
        let [pattern] = arguments else {
            return;
        };
        if self.dump.is_none() || source.depth >= MAX_INCLUDES {
            return;
        }
        for path in self.find(pattern).unwrap_or_default() {
            if self.dump.as_ref().is_some_and(|dump| dump.was_read(&path)) {
                continue;
            }
            if let Ok((file, text)) = self.open(&path) {
                // nginx itself has accepted it.
                let _ = self.file(&text, file, source.depth + 1, Context::Other);
            }
        }
    }

    /// The files that an include means, in nginx's order. A pattern may mean none.
    fn find(&self, pattern: &str) -> Result<Vec<PathBuf>, String> {
        let full = self.folder.join(pattern);
        let text = full.to_string_lossy();
        if !text.contains(['*', '?', '[']) {
            return Ok(vec![full]);
        }
        // The C library knows no recursive `**`, and takes `[^a]` for `[!a]`.
        let mut text = text.replace("[^", "[!");
        while text.contains("**") {
            text = text.replace("**", "*");
        }
        let bad = |error: glob::PatternError| format!("`{}` is no pattern: {error}", shown(&text));
        if let Some(dump) = &self.dump {
            let pattern = glob::Pattern::new(&text).map_err(bad)?;
            return Ok(dump.matching(&pattern, PATTERNS));
        }
        let found = glob::glob_with(&text, PATTERNS).map_err(bad)?;
        let found = found.take(MAX_FILES + 1).collect::<Result<Vec<_>, _>>();
        found.map_err(|error| format!("cannot be read: {error}"))
    }

    /// Number and text of a file.
    fn open(&mut self, path: &Path) -> Result<(usize, String), String> {
        self.opened += 1;
        if self.opened > MAX_FILES {
            return Err(format!("more than {MAX_FILES} files are included"));
        }
        let text = match &mut self.dump {
            Some(dump) => dump.read(path)?,
            None => self.load(path)?,
        };
        Ok((self.number(path), text))
    }

    /// A file's text from the disk; comments need not be UTF-8.
    fn load(&mut self, path: &Path) -> Result<String, String> {
        let left = MAX_BYTES - self.bytes;
        let limit = u64::try_from(left).unwrap_or(u64::MAX);
        let mut bytes = Vec::new();
        let file = File::open(path);
        let read = file.and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
        read.map_err(|error| format!("cannot be read: {error}"))?;
        if bytes.len() > left {
            return Err(format!("all files together exceed {} MiB", MAX_BYTES >> 20));
        }
        self.bytes += bytes.len();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A file that is included twice has one number.
    fn number(&mut self, path: &Path) -> usize {
        // A dump may say anything.
        let name = path.display().to_string().replace(char::is_control, " ");
        let known = self.files.iter().position(|file| *file == name);
        known.unwrap_or_else(|| {
            self.files.push(name);
            self.files.len() - 1
        })
    }

    fn token(&self, source: &mut Source<'_>) -> Result<Token, String> {
        let token = source.lexer.next();
        token.map_err(|text| self.error(source, &text))
    }

    fn error(&self, source: &Source<'_>, text: &str) -> String {
        self.error_at(source.place(), text)
    }

    fn error_at(&self, place: FileLine, text: &str) -> String {
        format!("{}:{}: {text}", self.files[place.file], place.line)
    }
}

/// Text of the file in a message: shortened, without control characters.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 60;
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.chars().take(MOST).map(printable).collect();
    if text.chars().nth(MOST).is_some() {
        short.push('…');
    }
    short
}
