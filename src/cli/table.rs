//! Tables for a terminal: no line is longer than the terminal is wide, and nothing in them moves its cursor.

use std::io::IsTerminal;

/// A column is not made narrower than this, as long as another one can be.
const NARROW: usize = 8;

/// Rows under headings.
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table with these headings.
    pub(super) fn new(headings: [&str; N]) -> Self {
        Self {
            rows: vec![headings.map(str::to_owned)],
        }
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| plain(&cell)));
    }

    /// The lines, of at most so many characters each. The widest columns are cut first.
    pub(super) fn fit(&self, width: Option<usize>) -> String {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let between = 2 * N.saturating_sub(1);
        let limit = width.unwrap_or(usize::MAX);
        while widths.iter().sum::<usize>() + between > limit {
            match widths.iter_mut().max() {
                Some(widest) if *widest > NARROW => *widest -= 1,
                _ => break,
            }
        }
        let mut out = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(widths);
            let cells = cells.map(|(cell, width)| format!("{:width$}", cut(cell, width)));
            let line = cells.collect::<Vec<_>>().join("  ");
            out.push_str(&cut(line.trim_end(), limit));
            out.push('\n');
        }
        out
    }
}

/// Text without what a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    text.replace(char::is_control, "?")
}

/// How wide the terminal is; `None` where the output is none, and nobody says (`COLUMNS`).
pub(super) fn width() -> Option<usize> {
    let said = std::env::var("COLUMNS").ok();
    let said = said.and_then(|columns| columns.parse().ok());
    said.filter(|columns| *columns > 0).or_else(|| {
        let out = std::io::stdout();
        let size = out
            .is_terminal()
            .then(|| rustix::termios::tcgetwinsize(&out));
        let columns = size?.ok()?.ws_col;
        (columns > 0).then(|| columns.into())
    })
}

/// At most so many characters, the last of which says that there were more.
fn cut(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(limit.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_column_is_cut_first_and_no_line_is_too_long() {
        let mut table = Table::new(["ID", "USER"]);
        table.row(["7".to_owned(), "a-very-long-name@example.org".to_owned()]);
        table.row(["8".to_owned(), "b\u{1b}[2Jb".to_owned()]);
        assert_eq!(
            table.fit(None),
            "ID  USER\n7   a-very-long-name@example.org\n8   b?[2Jb\n"
        );
        assert_eq!(
            table.fit(Some(16)),
            "ID  USER\n7   a-very-long…\n8   b?[2Jb\n"
        );
        assert_eq!(table.fit(Some(6)), "ID  U…\n7   a…\n8   b…\n");
    }
}
