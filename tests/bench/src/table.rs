//! How results are shown: one table for each measure as text, JSON, and the table of the README.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::results::{Results, Row};

/// The machine and the versions of the programs, which figures depend on.
pub(crate) struct Surroundings {
    pub(crate) machine: String,
    pub(crate) versions: Vec<String>,
    pub(crate) rounds: usize,
}

/// One table for each measure: for each figure of each case a line for each program.
pub(crate) fn text(results: &Results) -> String {
    let rows = results.rows();
    let mut text = String::new();
    let mut measure = "";
    for row in &rows {
        if row.measure != measure {
            measure = row.measure;
            let title = measure.to_uppercase();
            put(
                &mut text,
                &format!(
                    "\n{title:<18}{:>10}{:>10}{:>10}{:>10}",
                    "median", "minimum", "maximum", "x nginx"
                ),
            );
        }
        if is_first_of_its_figure(&rows, row) {
            put(&mut text, &format!("{}: {}", row.case, name_and_unit(row)));
        }
        put(&mut text, &line(row));
    }
    text
}

fn name_and_unit(row: &Row) -> String {
    let (name, unit) = (row.figure.name, row.figure.unit);
    if unit.is_empty() {
        name.to_owned()
    } else {
        format!("{name}, {unit}")
    }
}

fn same_figure<'a>(rows: &'a [Row], of: &'a Row) -> impl Iterator<Item = &'a Row> {
    rows.iter().filter(move |row| {
        row.measure == of.measure && row.case == of.case && row.figure == of.figure
    })
}

fn is_first_of_its_figure(rows: &[Row], row: &Row) -> bool {
    same_figure(rows, row)
        .next()
        .is_some_and(|first| std::ptr::eq(first, row))
}

fn line(row: &Row) -> String {
    let ratio = row.ratio.map(|ratio| format!("{ratio:.2}"));
    let spread = row.spread;
    format!(
        "    {:<14}{:>10}{:>10}{:>10}{:>10}",
        row.program,
        number(spread.median),
        number(spread.minimum),
        number(spread.maximum),
        ratio.unwrap_or_default()
    )
}

/// All values, with what the tables say of them.
pub(crate) fn json(results: &Results, surroundings: &Surroundings) -> Value {
    let rows = results.rows();
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let values: Vec<Value> = row
                .values
                .iter()
                .map(|(round, value)| json!({ "round": round + 1, "value": value }))
                .collect();
            json!({
                "measure": row.measure,
                "case": row.case,
                "figure": row.figure.name,
                "unit": row.figure.unit,
                "program": row.program,
                "median": row.spread.median,
                "minimum": row.spread.minimum,
                "maximum": row.spread.maximum,
                "ratio_to_nginx": row.ratio,
                "values": values,
            })
        })
        .collect();
    json!({
        "machine": surroundings.machine,
        "versions": surroundings.versions,
        "rounds": surroundings.rounds,
        "rows": rows,
        "errors": results.errors,
    })
}

/// The README's table: the headlines, a column for each program, medians with the ratio behind.
pub(crate) fn markdown(results: &Results, surroundings: &Surroundings) -> String {
    let rows = results.rows();
    let rows: Vec<Row> = rows
        .into_iter()
        .filter(|row| row.figure.is_headline)
        .collect();
    let mut programs: Vec<&str> = Vec::new();
    for row in &rows {
        if !programs.contains(&row.program) {
            programs.push(row.program);
        }
    }
    let mut text = String::new();
    let Surroundings {
        machine,
        versions,
        rounds,
    } = surroundings;
    put(
        &mut text,
        &format!("{machine}. {}. Rounds: {rounds}.\n", versions.join(", ")),
    );
    put(&mut text, &format!("| | {} |", programs.join(" | ")));
    put(
        &mut text,
        &format!("|---|{}", "---:|".repeat(programs.len())),
    );
    for row in &rows {
        if !is_first_of_its_figure(&rows, row) {
            continue;
        }
        let cells: Vec<String> = programs
            .iter()
            .map(|program| {
                let mut of_figure = same_figure(&rows, row);
                let found = of_figure.find(|one| one.program == *program);
                found.map_or_else(|| "–".to_owned(), cell)
            })
            .collect();
        put(
            &mut text,
            &format!(
                "| {}: {}: {} | {} |",
                row.measure,
                row.case,
                name_and_unit(row),
                cells.join(" | ")
            ),
        );
    }
    text
}

fn cell(row: &Row) -> String {
    let median = number(row.spread.median);
    match row.ratio {
        Some(ratio) => format!("{median} ({ratio:.2})"),
        None => median,
    }
}

/// With three digits that say something, if there are that many.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        ..1.0 => 3,
        ..10.0 => 2,
        ..100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

fn put(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Figure, Place};

    static CPU: Figure = Figure::headline("CPU", "s");
    static RATE: Figure = Figure::detail("rate", "1/s");

    fn results() -> Results {
        let mut results = Results::default();
        for (program, value) in [
            ("direct", None),
            ("postern", Some(0.5)),
            ("nginx", Some(2.0)),
        ] {
            let place = Place {
                measure: "login",
                case: "IMAP".to_owned(),
                program,
                round: 0,
            };
            let mut values = vec![(&RATE, 1234.0)];
            values.extend(value.map(|value| (&CPU, value)));
            results.add(&place, values);
        }
        results
    }

    fn surroundings() -> Surroundings {
        Surroundings {
            machine: "Two cores".to_owned(),
            versions: vec!["postern 1".to_owned(), "nginx/1".to_owned()],
            rounds: 1,
        }
    }

    #[test]
    fn the_readmes_table_has_the_headlines_and_a_column_for_each_program() {
        assert_eq!(
            markdown(&results(), &surroundings()),
            "Two cores. postern 1, nginx/1. Rounds: 1.\n\n\
             | | postern | nginx |\n|---|---:|---:|\n\
             | login: IMAP: CPU, s | 0.500 (0.25) | 2.00 |\n"
        );
    }

    #[test]
    fn the_text_has_every_figure_of_every_program() {
        let text = text(&results());
        assert_eq!(text.lines().filter(|line| line.contains("1234")).count(), 3);
        let ours = text.lines().find(|line| line.contains("0.500"));
        assert!(ours.is_some_and(|line| line.ends_with("0.25")), "{text}");
    }

    #[test]
    fn the_json_has_each_round() {
        let json = json(&results(), &surroundings());
        let row = &json["rows"][0];
        assert_eq!(row["program"], "postern");
        assert_eq!(row["values"][0]["round"], 1);
        assert_eq!(row["ratio_to_nginx"], 0.25);
    }
}
