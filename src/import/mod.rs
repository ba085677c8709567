//! `postern import-nginx`: a configuration of nginx's or Angie's mail proxy becomes ours.
//!
//! `syntax` and `tree` read the files, `directives` and `translate` say what they mean here, `share`
//! and `write` make the text. Everything that is written was accepted by our own parser; what it
//! refuses, and what has no counterpart, is a comment and a warning.

mod directives;
mod dump;
mod error_log;
mod limits;
mod listen;
mod share;
mod stream;
mod syntax;
mod translate;
mod tree;
mod verify;
mod write;
mod zimbra;

use std::path::Path;

use directives::Origin;
use tree::{FileLine, Tree};

/// Places of one warning that are named; the others are counted.
const MAX_PLACES: usize = 30;

/// What became of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Our configuration.
    pub ini: String,
    /// What was not carried over, in file order, each as
    /// `FILE:LINE: directive: why, and what to do instead`, with further places in brackets behind it;
    /// empty if nothing was lost.
    pub warnings: Vec<String>,
    /// What `postern check` will warn of, each as `line LINE: …` of our configuration.
    pub remarks: Vec<String>,
}

/// Reads nginx's configuration in `path`, with what it includes, and translates its `mail {}`. The
/// output of `nginx -T` is read as the files it holds. File names in it are relative to its folder, those
/// of logs to the folder above `conf`.
///
/// # Errors
/// If this is no configuration, or none of a mail proxy: why, as lines `FILE:LINE: …`.
pub fn import(path: &Path) -> Result<Imported, Vec<String>> {
    let mut tree = Tree::read(path).map_err(|error| vec![error])?;
    let mut losses = Losses::default();
    let document = translate::translate(&mut tree, &mut losses);
    let settled = document.and_then(|mut document| {
        let settled = verify::settle(&mut document, &mut losses);
        settled.map_err(|text| format!("{}:1: {text}", tree.files[0]))
    });
    let warnings = losses.render(&tree);
    match settled {
        Ok((ini, remarks)) => Ok(Imported {
            ini,
            warnings,
            remarks,
        }),
        Err(error) => {
            let mut errors = warnings;
            errors.push(error);
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

    /// Each once, at its first place.
    fn render(mut self, tree: &Tree) -> Vec<String> {
        self.lines.sort_by_key(|(place, _)| *place);
        self.lines.dedup();
        let mut alike: Vec<(String, Vec<FileLine>)> = Vec::new();
        for (place, line) in self.lines {
            match alike.iter_mut().find(|(known, _)| *known == line) {
                Some((_, places)) => places.push(place),
                None => alike.push((line, vec![place])),
            }
        }
        let lines = alike.iter();
        lines
            .map(|(line, places)| {
                let further = further_places(tree, places);
                format!("{}: {line}{further}", tree.show(places[0]))
            })
            .collect()
    }
}

/// ` (also :9, :14, mail.conf:3)`; lines of a file that was named just before have no name.
fn further_places(tree: &Tree, places: &[FileLine]) -> String {
    let pairs = places.windows(2).take(MAX_PLACES);
    let shown: Vec<String> = pairs
        .map(|pair| match pair[0].file == pair[1].file {
            true => format!(":{}", pair[1].line),
            false => tree.show(pair[1]),
        })
        .collect();
    let more = places.len() - 1 - shown.len();
    match (shown.is_empty(), more) {
        (true, _) => String::new(),
        (false, 0) => format!(" (also {})", shown.join(", ")),
        (false, more) => format!(" (also {} and {more} more)", shown.join(", ")),
    }
}
