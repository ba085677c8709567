//! The output of `nginx -T` or `angie -T`: the main file and everything it includes, one behind the
//! other, each below a line with its name.
//!
//! Includes are looked up in it, never on this machine's disk: it may come from another one.

use std::path::{Path, PathBuf};

/// What stands before a file's name in such a line; a `:` stands behind it.
const MARK: &str = "# configuration file ";

/// What the program says on standard error, if that was written into the same file.
const REPORTS: [&str; 2] = ["nginx: ", "angie: "];

/// All files; there is one at least.
#[derive(Debug)]
pub(super) struct Dump {
    files: Vec<Dumped>,
}

#[derive(Debug)]
struct Dumped {
    path: PathBuf,
    text: String,
    was_read: bool,
}

impl Dump {
    /// Takes it apart, if it is one.
    pub(super) fn of(text: &str) -> Option<Self> {
        let mut files: Vec<Dumped> = Vec::new();
        for line in text
            .strip_prefix('\u{feff}')
            .unwrap_or(text)
            .split_inclusive('\n')
        {
            let name = line.trim_end().strip_prefix(MARK);
            match (
                name.and_then(|rest| rest.strip_suffix(':')),
                files.last_mut(),
            ) {
                (Some(name), _) => files.push(Dumped {
                    path: PathBuf::from(name),
                    text: String::new(),
                    was_read: false,
                }),
                (None, Some(file)) => file.text.push_str(line),
                (None, None) => {
                    let is_report = REPORTS.iter().any(|report| line.starts_with(report));
                    if !is_report && !line.trim().is_empty() {
                        return None;
                    }
                }
            }
        }
        (!files.is_empty()).then_some(Self { files })
    }

    /// The main file's name, which comes first.
    pub(super) fn main(&self) -> &Path {
        &self.files[0].path
    }

    /// The text of a file.
    pub(super) fn read(&mut self, path: &Path) -> Result<String, String> {
        let file = self.files.iter_mut().find(|file| file.path == path);
        let file = file.ok_or_else(|| "it is not part of this output of -T".to_owned())?;
        file.was_read = true;
        Ok(file.text.clone())
    }

    /// Whether that was done; also for what is not there.
    pub(super) fn was_read(&self, path: &Path) -> bool {
        let file = self.files.iter().find(|file| file.path == path);
        file.is_none_or(|file| file.was_read)
    }

    /// A file that was not read yet.
    pub(super) fn unread(&self) -> Option<PathBuf> {
        let file = self.files.iter().find(|file| !file.was_read);
        file.map(|file| file.path.clone())
    }

    /// The files that fit a pattern, sorted.
    pub(super) fn matching(
        &self,
        pattern: &glob::Pattern,
        options: glob::MatchOptions,
    ) -> Vec<PathBuf> {
        let paths = self.files.iter().map(|file| &file.path);
        let mut paths: Vec<PathBuf> = paths
            .filter(|path| pattern.matches_path_with(path, options))
            .cloned()
            .collect();
        paths.sort();
        paths.dedup();
        paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_begins_with_a_name_or_with_reports() {
        let dump = |text| Dump::of(text).map(|dump| dump.files.len());
        assert_eq!(
            dump("# configuration file /a:\nb;\n\n# configuration file /c:\n"),
            Some(2)
        );
        assert_eq!(
            dump("nginx: is ok\nangie: [warn] x\n\n# configuration file /a:\r\n"),
            Some(1)
        );
        assert_eq!(dump("b;\n# configuration file /a:\n"), None);
        assert_eq!(dump("# configuration file /a\n"), None);
        assert_eq!(dump(""), None);
    }

    #[test]
    fn files_are_found_by_name_and_pattern() {
        let text = "# configuration file /a/m:\nx;\n\n# configuration file /a/d/2:\n\
                    # configuration file /a/d/1:\n# configuration file /a/d/.h:\n";
        let mut dump = Dump::of(text).expect("a dump");
        assert_eq!(dump.main(), Path::new("/a/m"));
        assert_eq!(dump.read(Path::new("/a/m")).as_deref(), Ok("x;\n\n"));
        assert!(dump.read(Path::new("/etc/passwd")).is_err());
        assert_eq!(dump.unread().as_deref(), Some(Path::new("/a/d/2")));
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let found = |pattern| dump.matching(&glob::Pattern::new(pattern).expect(pattern), options);
        assert_eq!(found("/a/d/*"), ["/a/d/1", "/a/d/2"].map(PathBuf::from));
        assert_eq!(found("/*"), Vec::<PathBuf>::new());
    }
}
