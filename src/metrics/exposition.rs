//! Numbers as Prometheus reads them: its text format, version 0.0.4.
//!
//! What the client libraries have beyond this (registries, families that grow with their labels under a
//! lock) is what a login shall not pay for; what is left of them is this file.

use std::fmt::Write;

use super::Histogram;

/// The media type of it.
pub(crate) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Names and values of the labels of one number.
pub(crate) type Labels<'a> = &'a [(&'static str, &'a str)];

/// A text in the making. The lines of one metric follow upon its `begin`.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    text: String,
    name: &'static str,
}

/// What kind of a metric it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Times by how long they were.
    Histogram,
}

impl Exposition {
    /// Begins a metric; `help` is one line without a backslash.
    pub(crate) fn begin(&mut self, name: &'static str, kind: Kind, help: &'static str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        self.name = name;
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One number of it.
    pub(crate) fn number(&mut self, labels: Labels<'_>, value: f64) {
        self.line("", labels, None, value);
    }

    /// One count of it.
    pub(crate) fn count(&mut self, labels: Labels<'_>, value: u64) {
        // Exact up to 2^53, as whoever reads it has nothing better either.
        self.number(labels, value as f64);
    }

    /// One histogram of it.
    pub(crate) fn histogram(&mut self, labels: Labels<'_>, histogram: &Histogram) {
        let buckets = histogram.buckets();
        for (bound, count) in &buckets {
            self.line("_bucket", labels, Some(*bound), *count as f64);
        }
        self.line("_sum", labels, None, histogram.seconds());
        let all = buckets.last().map_or(0, |(_, count)| *count);
        self.line("_count", labels, None, all as f64);
    }

    /// The text.
    pub(crate) fn finish(self) -> String {
        self.text
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, bound: Option<f64>, value: f64) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let mut open = '{';
        for (name, value) in labels {
            // Writing to a String cannot fail.
            let _ = write!(self.text, "{open}{name}=\"{}\"", escaped(value));
            open = ',';
        }
        if let Some(bound) = bound {
            let bound = match bound.is_infinite() {
                true => "+Inf".to_owned(),
                false => bound.to_string(),
            };
            let _ = write!(self.text, "{open}le=\"{bound}\"");
            open = ',';
        }
        if open == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

/// The three characters that a value must not have bare.
fn escaped(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    value.replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lines_are_as_the_format_has_them() {
        let mut out = Exposition::default();
        out.begin("a_total", Kind::Counter, "Help.");
        out.count(&[], 7);
        out.count(&[("x", "a\"b\\c\nd"), ("y", "é")], 1 << 40);
        out.begin("t_seconds", Kind::Histogram, "Times.");
        let times = Histogram::new(&[5]);
        times.note(Duration::from_millis(5));
        times.note(Duration::from_millis(6));
        out.histogram(&[("s", "m")], &times);
        let expected = "# HELP a_total Help.\n# TYPE a_total counter\na_total 7\n\
                        a_total{x=\"a\\\"b\\\\c\\nd\",y=\"é\"} 1099511627776\n\
                        # HELP t_seconds Times.\n# TYPE t_seconds histogram\n\
                        t_seconds_bucket{s=\"m\",le=\"0.005\"} 1\n\
                        t_seconds_bucket{s=\"m\",le=\"+Inf\"} 2\n\
                        t_seconds_sum{s=\"m\"} 0.011\nt_seconds_count{s=\"m\"} 2\n";
        assert_eq!(out.finish(), expected);
    }
}
