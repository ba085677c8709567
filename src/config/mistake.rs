//! What is wrong with a configuration or a map, as values: where it stands and what it is.
//!
//! How it reads is said here once. Who wants to do something about a mistake looks at its fields.

use std::fmt;
use std::path::Path;

use super::ListenAddress;

/// One thing that is wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mistake {
    /// The file, as it was named.
    pub file: String,
    /// Line, from 1; `None` for the file as a whole.
    pub line: Option<usize>,
    /// Section name without brackets; empty outside sections.
    pub section: String,
    /// Key; empty for the section as a whole.
    pub key: String,
    /// What is wrong, for the administrator.
    pub text: String,
    /// The same for programs, where one has to know.
    pub kind: MistakeKind,
}

/// The mistakes that are told apart by more than their text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MistakeKind {
    /// A section, or a key that stands once, stands a second time.
    StandsTwice,
    /// Two listeners have the same address.
    AddressTaken {
        /// What cannot be listened on.
        address: ListenAddress,
        /// The section that has it already, without brackets.
        by: String,
    },
    /// A user or group that the system does not have.
    UnknownAccount,
    /// A host name without address.
    UnresolvedName,
    /// Everything else.
    Other,
}

impl Mistake {
    /// A mistake of a whole file.
    pub(super) fn of_file(file: &Path, text: impl Into<String>) -> Self {
        Self {
            file: file.display().to_string(),
            line: None,
            section: String::new(),
            key: String::new(),
            text: text.into(),
            kind: MistakeKind::Other,
        }
    }

    /// A mistake in a file that has lines, but no sections.
    pub(super) fn of_line(file: &Path, line: usize, text: impl Into<String>) -> Self {
        Self {
            line: Some(line),
            ..Self::of_file(file, text)
        }
    }

    /// `[section] key: text`, without the place in a file.
    pub fn without_place(&self) -> String {
        let text = &self.text;
        match (self.section.as_str(), self.key.as_str()) {
            ("", "") => text.clone(),
            ("", key) => format!("{key}: {text}"),
            (section, "") => format!("[{section}]: {text}"),
            (section, key) => format!("[{section}] {key}: {text}"),
        }
    }
}

/// `FILE:LINE: [section] key: text`.
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, text) = (&self.file, self.without_place());
        match self.line {
            Some(line) => write!(f, "{file}:{line}: {text}"),
            None => write!(f, "{file}: {text}"),
        }
    }
}

/// What is wrong with a value, for those who do not know where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WrongValue {
    pub(super) kind: MistakeKind,
    pub(super) text: String,
}

impl From<String> for WrongValue {
    fn from(text: String) -> Self {
        Self {
            kind: MistakeKind::Other,
            text,
        }
    }
}

impl From<&str> for WrongValue {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}
