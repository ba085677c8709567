//! What was measured: one value for each figure, case, program and round; how the programs compare.
//! How this is shown stands in `table`.

use std::collections::BTreeMap;

use crate::arithmetic::{Spread, median_ratio, spread};

/// The program that the others are compared with.
pub(crate) const REFERENCE: &str = "nginx";

/// A quantity that is measured.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    /// Whether it stands in the README's table.
    pub(crate) is_headline: bool,
}

impl Figure {
    /// One that stands in the README's table.
    pub(crate) const fn headline(name: &'static str, unit: &'static str) -> Self {
        Self {
            name,
            unit,
            is_headline: true,
        }
    }

    /// One that stands in the full tables only.
    pub(crate) const fn detail(name: &'static str, unit: &'static str) -> Self {
        Self {
            name,
            unit,
            is_headline: false,
        }
    }
}

/// What one run of one program has shown.
pub(crate) type Values = Vec<(&'static Figure, f64)>;

/// Where a value belongs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) measure: &'static str,
    pub(crate) case: String,
    pub(crate) program: &'static str,
    pub(crate) round: usize,
}

/// A line of a table.
pub(crate) struct Row {
    pub(crate) measure: &'static str,
    pub(crate) case: String,
    pub(crate) figure: &'static Figure,
    pub(crate) program: &'static str,
    /// `(round, value)`.
    pub(crate) values: Vec<(usize, f64)>,
    pub(crate) spread: Spread,
    /// To the reference, formed within each round; the reference has none, nor has what it lacks.
    pub(crate) ratio: Option<f64>,
}

/// All that was measured, and what could not be.
#[derive(Default)]
pub(crate) struct Results {
    samples: Vec<(Place, &'static Figure, f64)>,
    pub(crate) errors: Vec<String>,
}

impl Results {
    /// Adds what a run has shown.
    pub(crate) fn add(&mut self, place: &Place, values: Values) {
        for (figure, value) in values {
            self.samples.push((place.clone(), figure, value));
        }
    }

    /// Something could not be measured at all.
    pub(crate) fn add_error(&mut self, place: &Place, error: &str) {
        let Place {
            measure,
            case,
            program,
            round,
        } = place;
        let error = format!("{measure}, {case}, {program}, round {}: {error}", round + 1);
        self.errors.push(error);
    }

    /// One row for each figure of each program in each case, in the order in which they came; but
    /// the headlines of a case stand before its details, and a figure's rows together.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let mut order = Vec::new();
        let mut values: BTreeMap<_, Vec<(usize, f64)>> = BTreeMap::new();
        for (place, figure, value) in &self.samples {
            let key = (place.measure, &place.case, figure.name, place.program);
            if !values.contains_key(&key) {
                order.push((key, *figure));
            }
            values.entry(key).or_default().push((place.round, *value));
        }
        let rows = order.into_iter().filter_map(|(key, figure)| {
            let (measure, case, name, program) = key;
            let own = &values[&key];
            let of: Vec<f64> = own.iter().map(|(_, value)| *value).collect();
            let reference = values.get(&(measure, case, name, REFERENCE));
            let reference = reference.filter(|_| program != REFERENCE);
            Some(Row {
                measure,
                case: case.clone(),
                figure,
                program,
                values: own.clone(),
                spread: spread(&of)?,
                ratio: reference.and_then(|reference| median_ratio(own, reference)),
            })
        });
        let mut rows: Vec<Row> = rows.collect();
        let (mut cases, mut figures) = (Vec::new(), Vec::new());
        rows.sort_by_cached_key(|row| {
            let case = place_in(&mut cases, (row.measure, row.case.clone()));
            let figure = place_in(&mut figures, (row.measure, row.figure.name));
            (case, !row.figure.is_headline, figure)
        });
        rows
    }
}

/// Where an element stands; a new one comes to the end.
fn place_in<T: PartialEq>(all: &mut Vec<T>, element: T) -> usize {
    let place = all.iter().position(|one| *one == element);
    place.unwrap_or_else(|| {
        all.push(element);
        all.len() - 1
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    static CPU: Figure = Figure::headline("CPU", "s");

    fn results() -> Results {
        let mut results = Results::default();
        for (round, ours, theirs) in [(0, 1.0, 2.0), (1, 30.0, 20.0), (2, 1.5, 2.0)] {
            for (program, value) in [("postern", ours), (REFERENCE, theirs)] {
                let place = Place {
                    measure: "login",
                    case: "IMAP".to_owned(),
                    program,
                    round,
                };
                results.add(&place, vec![(&CPU, value)]);
            }
        }
        results
    }

    #[test]
    fn a_row_compares_with_the_reference_of_its_own_rounds() {
        let rows = results().rows();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].program, "postern");
        assert_eq!(rows[0].ratio, Some(0.75));
        assert_eq!(
            rows[0].spread,
            Spread {
                median: 1.5,
                minimum: 1.0,
                maximum: 30.0
            }
        );
        assert_eq!(rows[1].ratio, None);
    }

    #[test]
    fn an_error_says_where_it_belongs() {
        let mut results = results();
        let place = Place {
            measure: "relay",
            case: "down".to_owned(),
            program: "HAProxy",
            round: 0,
        };
        results.add_error(&place, "it does not start");
        assert_eq!(
            results.errors,
            ["relay, down, HAProxy, round 1: it does not start"]
        );
    }
}
