//! `postern import-nginx`: a configuration of nginx's or Angie's mail proxy becomes ours.
//!
//! `syntax` and `tree` read the files, `directives` and `translate` say what they mean here, `share`
//! and `write` make the text. Everything that is written was accepted by our own parser; what it
//! refuses, and what has no counterpart, is a comment and a warning.

mod directives;
mod error_log;
mod listen;
mod share;
mod syntax;
mod translate;
mod tree;
mod verify;
mod write;

use std::path::Path;

use directives::Origin;
use tree::{FileLine, Tree};

/// What became of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Our configuration.
    pub ini: String,
    /// What was not carried over, in file order, each as
    /// `FILE:LINE: directive: why, and what to do instead`; empty if nothing was lost.
    pub warnings: Vec<String>,
}

/// Reads nginx's configuration in `path`, with what it includes, and translates its `mail {}`.
/// File names in it are relative to its folder, those of logs to the folder above `conf`.
///
/// # Errors
/// If this is no configuration, or none of a mail proxy: why, as lines `FILE:LINE: …`.
pub fn import(path: &Path) -> Result<Imported, Vec<String>> {
    let mut tree = Tree::read(path).map_err(|error| vec![error])?;
    let mut losses = Losses::default();
    let document = translate::translate(&mut tree, path, &mut losses);
    let mut document = document.map_err(|error| vec![error])?;
    let ini = verify::settle(&mut document, &mut losses);
    let warnings = losses.render(&tree);
    match ini {
        Ok(ini) => Ok(Imported { ini, warnings }),
        Err(text) => {
            let mut errors = warnings;
            errors.push(format!("{}:1: {text}", tree.files[0]));
            Err(errors)
        }
    }
}

/// What was not carried over.
#[derive(Debug, Default)]
struct Losses {
    lines: Vec<(FileLine, String)>,
}

impl Losses {
    fn add(&mut self, origin: &Origin, reason: &str) {
        let line = format!("{}: {reason}", origin.name);
        self.lines.push((origin.place, line));
    }

    fn render(mut self, tree: &Tree) -> Vec<String> {
        self.lines.sort_by_key(|(place, _)| *place);
        self.lines.dedup();
        let lines = self.lines.iter();
        lines
            .map(|(place, line)| format!("{}: {line}", tree.show(*place)))
            .collect()
    }
}
