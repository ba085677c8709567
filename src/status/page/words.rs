//! How the page says things: text that cannot be anything else, times, sizes, numbers.

use std::fmt::{self, Display, Write};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Text that shall be nothing but text, in an element or in an attribute with quotes.
pub(super) struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// A moment in local time; `format` is strftime's.
pub(super) fn at(moment: Timestamp, format: &str) -> String {
    let zoned = moment.to_zoned(TimeZone::system());
    zoned.strftime(format).to_string()
}

/// A time in its two largest units.
pub(super) fn in_time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// Bytes in the unit that fits.
pub(super) fn in_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Behind "the certificate": when it expires or has expired, that being so many whole days away.
pub(super) fn in_days(days: i64) -> String {
    match days {
        ..=-1 => "has expired".to_owned(),
        0 => "expires within a day".to_owned(),
        1 => "expires in one day".to_owned(),
        days => format!("expires in {} days", grouped(days.unsigned_abs())),
    }
}

/// A number, its digits in groups of three with a thin space between.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let text = Escaped("<b a='\"'>&amp;ü").to_string();
        assert_eq!(text, "&lt;b a=&#39;&quot;&#39;&gt;&amp;amp;ü");
    }

    #[test]
    fn times_sizes_and_numbers_have_the_unit_that_fits() {
        let time = |seconds| in_time(Duration::from_secs(seconds));
        assert_eq!(time(59), "59 s");
        assert_eq!(time(61), "1 min 1 s");
        assert_eq!(time(7384), "2 h 3 min");
        assert_eq!(time(90_000), "1 d 1 h");
        assert_eq!(in_bytes(1023), "1023 B");
        assert_eq!(in_bytes(1536), "1.5 KiB");
        assert_eq!(in_bytes(1 << 20), "1.0 MiB");
        assert_eq!(in_bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(in_days(-1), "has expired");
        assert_eq!(in_days(1), "expires in one day");
    }
}
