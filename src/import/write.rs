//! The document that is to be written: sections, lines and comments, and its text.
//!
//! Remembers which line of the text came from where, so that a complaint about one can be turned
//! into a comment at its place. What the lines mean is not known here.

use super::directives::Origin;

/// Everything that is written, in its order.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// Comments above everything.
    pub(super) header: Vec<String>,
    /// Empty ones are not written.
    pub(super) sections: Vec<Section>,
    /// Comments below everything.
    pub(super) footer: Vec<String>,
}

/// One `[section]`.
#[derive(Debug, Clone, Default)]
pub(super) struct Section {
    /// What stands in the brackets.
    pub(super) title: String,
    /// Comments above it.
    pub(super) comments: Vec<String>,
    /// Its lines.
    pub(super) entries: Vec<Entry>,
    /// Comments at its end.
    pub(super) end: Vec<String>,
    /// The block that it came from.
    pub(super) origin: Option<Origin>,
    /// Written as a comment as a whole.
    pub(super) off: bool,
}

/// `key = value`, or what became of a directive without counterpart.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Comments above it, each with its `#`.
    pub(super) comments: Vec<String>,
    /// Empty where there are comments alone.
    pub(super) key: &'static str,
    /// Right of the `=`.
    pub(super) value: String,
    /// The directive; `None` for what nginx does by default.
    pub(super) origin: Option<Origin>,
}

/// What a line of the text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// The header of that section.
    Title(usize),
    /// That entry of that section.
    Entry(usize, usize),
    /// A comment or empty line.
    Other,
}

impl Entry {
    /// A default of nginx that is another one here.
    pub(super) fn of_default(key: &'static str, value: &str) -> Self {
        Self {
            comments: Vec::new(),
            key,
            value: value.to_owned(),
            origin: None,
        }
    }

    /// Turns it into a comment.
    pub(super) fn lose(&mut self, reason: &str) {
        let lost = match &self.origin {
            Some(origin) => origin.source.clone(),
            None => format!("{} = {}", self.key, self.value),
        };
        self.note(reason);
        self.comments.push(format!("# {lost}"));
        self.key = "";
    }

    /// Says above it what is missing.
    pub(super) fn note(&mut self, reason: &str) {
        self.comments.push(format!("# Not carried over: {reason}."));
    }
}

impl Section {
    /// With this title, empty.
    pub(super) fn new(title: &str) -> Self {
        Self {
            title: title.to_owned(),
            ..Self::default()
        }
    }

    /// Turns it into a comment.
    pub(super) fn lose(&mut self, reason: &str) {
        self.comments.push(format!("# Not carried over: {reason}."));
        self.off = true;
    }

    /// The values of a key.
    pub(super) fn values(&self, key: &str) -> Vec<&str> {
        let entries = self.entries.iter().filter(|entry| entry.key == key);
        entries.map(|entry| entry.value.as_str()).collect()
    }

    fn has_lines(&self) -> bool {
        self.entries.iter().any(|entry| !entry.key.is_empty())
    }
}

impl Document {
    /// The text, and what each of its lines is.
    pub(super) fn write(&self) -> (String, Vec<Slot>) {
        let mut writer = Writer::default();
        writer.comments(&self.header);
        for (index, section) in self.sections.iter().enumerate() {
            writer.section(index, section);
        }
        if !self.footer.is_empty() {
            writer.line("", Slot::Other);
            writer.comments(&self.footer);
        }
        (writer.text, writer.slots)
    }
}

#[derive(Default)]
struct Writer {
    text: String,
    slots: Vec<Slot>,
    off: bool,
}

impl Writer {
    fn line(&mut self, line: &str, slot: Slot) {
        if self.off && !line.is_empty() && !line.starts_with('#') {
            self.text.push_str("# ");
        }
        self.text.push_str(line);
        self.text.push('\n');
        self.slots.push(slot);
    }

    /// Line ends cannot stand in them; other control characters could fool a terminal.
    fn comments(&mut self, comments: &[String]) {
        for comment in comments.iter().filter(|comment| !comment.is_empty()) {
            let comment = comment.replace(char::is_control, " ");
            self.line(&comment, Slot::Other);
        }
    }

    fn section(&mut self, index: usize, section: &Section) {
        let is_server = section.title.starts_with("server ");
        let comments = section.comments.iter().chain(&section.end);
        if !is_server && section.entries.is_empty() && comments.clone().all(String::is_empty) {
            return;
        }
        if !self.text.is_empty() {
            self.line("", Slot::Other);
        }
        self.off = section.off;
        self.comments(&section.comments);
        if is_server || section.has_lines() {
            self.line(&format!("[{}]", section.title), Slot::Title(index));
        }
        for (number, entry) in section.entries.iter().enumerate() {
            self.comments(&entry.comments);
            if !entry.key.is_empty() {
                let line = format!("{} = {}", entry.key, entry.value);
                self.line(&line, Slot::Entry(index, number));
            }
        }
        self.comments(&section.end);
        self.off = false;
    }
}
