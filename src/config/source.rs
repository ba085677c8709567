//! The configuration file as text: sections, keys and values, each with its line.
//!
//! Syntax alone: every mistake of it is found in one pass. What a section or key means is not known
//! here. Lines go to `rust-ini` one at a time, because as a whole it stops at the first mistake,
//! keeps no line numbers and joins lines.

use ini::{Ini, ParseOption};

use super::mistake::{Mistake, MistakeKind};

/// Longest file that is read, in bytes.
pub(super) const MAX_FILE: usize = 1024 * 1024;

/// One `[section]` and what stands below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    /// What stands between the brackets, single spaces between words.
    pub(super) name: String,
    /// Line of the header, from 1.
    pub(super) line: usize,
    /// Its lines, in file order.
    pub(super) entries: Vec<Entry>,
}

impl Section {
    /// The lines of one key, in file order.
    pub(super) fn lines<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| entry.key == key)
    }
}

/// One `key = value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Left of the first `=`.
    pub(super) key: String,
    /// Right of it, without the spaces around.
    pub(super) value: String,
    /// Its line, from 1.
    pub(super) line: usize,
}

/// Collects mistakes and warnings, each with the line of the configuration that it belongs to.
#[derive(Debug)]
pub(super) struct Report {
    file: String,
    mistakes: Vec<(usize, Mistake)>,
    warnings: Vec<(usize, Mistake)>,
}

/// What a message is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<'a> {
    /// Line, from 1.
    pub(super) line: usize,
    /// Section name without brackets; empty outside sections.
    pub(super) section: &'a str,
    /// Key; empty for the section as a whole.
    pub(super) key: &'a str,
}

impl Report {
    /// For the file with this name.
    pub(super) fn new(file: String) -> Self {
        Self {
            file,
            mistakes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// A line of the file, as messages name it.
    pub(super) fn place(&self, line: usize) -> String {
        format!("{}:{line}", self.file)
    }

    /// Something that keeps the configuration from being used.
    pub(super) fn mistake(&mut self, at: At<'_>, text: &str) {
        self.mistake_of_kind(MistakeKind::Other, at, text);
    }

    /// The same for those that are told apart.
    pub(super) fn mistake_of_kind(&mut self, kind: MistakeKind, at: At<'_>, text: &str) {
        let mistake = Mistake {
            kind,
            ..self.mistake_at(at, text)
        };
        self.mistakes.push((at.line, mistake));
    }

    /// Mistakes in another file that a line names.
    pub(super) fn mistakes_elsewhere(&mut self, line: usize, mistakes: Vec<Mistake>) {
        let mistakes = mistakes.into_iter().map(|mistake| (line, mistake));
        self.mistakes.extend(mistakes);
    }

    /// Something without effect.
    pub(super) fn warning(&mut self, at: At<'_>, text: &str) {
        let warning = self.mistake_at(at, text);
        self.warnings.push((at.line, warning));
    }

    /// Mistakes, and warnings as their lines, each sorted by line and without repetitions: a line of
    /// `[mail]` is looked at once for each server.
    pub(super) fn finish(self) -> (Vec<Mistake>, Vec<String>) {
        let warnings = in_order(self.warnings);
        let warnings = warnings.iter().map(ToString::to_string).collect();
        (in_order(self.mistakes), warnings)
    }

    fn mistake_at(&self, at: At<'_>, text: &str) -> Mistake {
        Mistake {
            file: self.file.clone(),
            line: Some(at.line),
            section: at.section.to_owned(),
            key: at.key.to_owned(),
            text: text.to_owned(),
            kind: MistakeKind::Other,
        }
    }
}

/// Takes a whole file apart. What cannot be understood is reported and left out.
pub(super) fn read(bytes: &[u8], report: &mut Report) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    // Below a header that cannot be read nobody knows what the keys mean.
    let mut lost = false;

    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    for (index, raw) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = index + 1;
        match parse_line(raw.strip_suffix(b"\r").unwrap_or(raw)) {
            Ok(Line::Nothing) => {}
            Ok(Line::Header(name)) => {
                lost = false;
                sections.push(Section {
                    name,
                    line,
                    entries: Vec::new(),
                });
            }
            Ok(Line::Entry(..)) if lost => {}
            Ok(Line::Entry(key, value)) => match sections.last_mut() {
                Some(section) => section.entries.push(Entry { key, value, line }),
                None => {
                    let (section, key) = ("", key.as_str());
                    report.mistake(
                        At { line, section, key },
                        "stands before the first [section]",
                    );
                }
            },
            Err(Broken::Header(text)) => {
                lost = true;
                let (section, key) = ("", "");
                report.mistake(At { line, section, key }, &text);
            }
            Err(Broken::Other(text)) => {
                let section = sections.last().filter(|_| !lost);
                let section = section.map_or("", |section| section.name.as_str());
                report.mistake(
                    At {
                        line,
                        section,
                        key: "",
                    },
                    &text,
                );
            }
        }
    }
    sections
}

enum Line {
    Nothing,
    Header(String),
    Entry(String, String),
}

enum Broken {
    Header(String),
    Other(String),
}

fn parse_line(raw: &[u8]) -> Result<Line, Broken> {
    let Ok(text) = std::str::from_utf8(raw) else {
        return Err(Broken::Other("not valid UTF-8".to_owned()));
    };
    let text = text.trim();
    if text.is_empty() || text.starts_with(['#', ';']) {
        return Ok(Line::Nothing);
    }
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err(Broken::Other("control character in this line".to_owned()));
    }
    if text.starts_with('[') {
        return header(text).map(Line::Header).map_err(Broken::Header);
    }
    entry(text).map_err(Broken::Other)
}

fn header(text: &str) -> Result<String, String> {
    let inside = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .ok_or("a section is one [NAME] and nothing else on its line")?;
    if inside.contains(['[', ']']) {
        return Err("a section is one [NAME] and nothing else on its line".to_owned());
    }
    let ini = parse_with_ini(text)?;
    let name = ini.sections().flatten().next().unwrap_or_default();
    let words: Vec<&str> = name.split_whitespace().collect();
    if words.is_empty() {
        return Err("a section needs a name".to_owned());
    }
    Ok(words.join(" "))
}

fn entry(text: &str) -> Result<Line, String> {
    let Some((key, _)) = text.split_once('=') else {
        return Err("no `=` in this line: write KEY = VALUE".to_owned());
    };
    let key = key.trim_end();
    if key.is_empty() {
        return Err("no key before the `=`: write KEY = VALUE".to_owned());
    }
    if key.contains(':') {
        return Err("`:` is no separator: write KEY = VALUE".to_owned());
    }
    let is_key_byte = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !key.bytes().all(is_key_byte) {
        return Err("no key before the `=`: a key is one word of letters, digits and _".to_owned());
    }

    let ini = parse_with_ini(text)?;
    let pair = ini.general_section().iter().next();
    let (key, value) = pair.ok_or("write KEY = VALUE")?;
    Ok(Line::Entry(key.to_owned(), value.to_owned()))
}

fn parse_with_ini(line: &str) -> Result<Ini, String> {
    let plain = ParseOption {
        enabled_quote: false,
        enabled_escape: false,
        ..ParseOption::default()
    };
    Ini::load_from_str_opt(line, plain).map_err(|error| error.msg.into_owned())
}

fn in_order(mut found: Vec<(usize, Mistake)>) -> Vec<Mistake> {
    found.sort_by_key(|(line, _)| *line);
    let mut seen = std::collections::HashSet::new();
    found
        .into_iter()
        .filter(|(_, mistake)| seen.insert(mistake.clone()))
        .map(|(_, mistake)| mistake)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> (Vec<Section>, Vec<String>) {
        let mut report = Report::new("f".to_owned());
        let sections = read(bytes, &mut report);
        let mistakes = report.finish().0;
        (sections, mistakes.iter().map(ToString::to_string).collect())
    }

    fn value_of(line: &str) -> String {
        let (sections, mistakes) = parse(format!("[a]\n{line}\n").as_bytes());
        assert_eq!(mistakes, Vec::<String>::new(), "{line}");
        sections[0].entries[0].value.clone()
    }

    #[test]
    fn values_keep_every_punctuation() {
        assert_eq!(value_of("k = a=b:c#d;e\"f\\g"), "a=b:c#d;e\"f\\g");
        assert_eq!(value_of("k=#x"), "#x");
        assert_eq!(value_of("k = 'a' \"b\""), "'a' \"b\"");
        assert_eq!(value_of("k = [x]"), "[x]");
        assert_eq!(value_of("k = = ="), "= =");
        assert_eq!(value_of("k ="), "");
        assert_eq!(value_of("  k\t=\t v w  "), "v w");
    }

    #[test]
    fn a_backslash_at_the_end_joins_nothing() {
        let (sections, mistakes) = parse(b"[a]\nk = v\\\nl = w\n");
        assert!(mistakes.is_empty());
        assert_eq!(sections[0].entries[0].value, "v\\");
        assert_eq!(sections[0].entries[1].line, 3);
    }

    #[test]
    fn bom_and_crlf_are_accepted() {
        let (sections, mistakes) = parse(b"\xef\xbb\xbf[ server   x ]\r\nk = v\r\n");
        assert!(mistakes.is_empty());
        assert_eq!(sections[0].name, "server x");
        assert_eq!(sections[0].entries[0].value, "v");
    }

    #[test]
    fn comments_are_whole_lines() {
        let (sections, mistakes) = parse(b"# x\n; y\n[a]\n  # z = 1\nk = v # w\n");
        assert!(mistakes.is_empty());
        assert_eq!(sections[0].entries.len(), 1);
        assert_eq!(sections[0].entries[0].value, "v # w");
    }

    #[test]
    fn all_syntax_mistakes_come_at_once_with_their_lines() {
        let text = b"k = v\n[a]] x=1\nlost = 1\n[b\n[c]\nnothing\na : b\n= x\nx\x01 = 1\n\xff = 2\na:b = c\nmy key = 1\n[]\n";
        let (sections, mistakes) = parse(text);
        let lines: Vec<&str> = mistakes.iter().map(|m| &m[..m.len().min(5)]).collect();
        assert_eq!(
            lines,
            [
                "f:1: ", "f:2: ", "f:4: ", "f:6: ", "f:7: ", "f:8: ", "f:9: ", "f:10:", "f:11:",
                "f:12:", "f:13:"
            ]
        );
        assert_eq!(sections.len(), 1);
    }

    #[test]
    fn a_carriage_return_inside_a_line_is_a_mistake() {
        let (_, mistakes) = parse(b"[a]\rk = v\n");
        assert_eq!(mistakes, ["f:1: control character in this line"]);
    }
}
