//! The logins of the last hour as a figure, in words and as a table.

use std::fmt::{self, Write};

use jiff::{SignedDuration, Timestamp};

use super::words::{at, grouped};
use crate::metrics::{MINUTES, Minute};

/// Units of the figure: a minute is so wide.
const WIDTH: u32 = 10;

/// The highest bar.
const HEIGHT: u32 = 100;

/// Minutes in a row of the table.
const ROW: usize = 5;

/// Writes it.
pub(super) fn write(html: &mut String, minutes: &[Minute; MINUTES]) -> fmt::Result {
    let all = sum(minutes);
    let highest = minutes.iter().map(|m| m.succeeded + m.failed).max();
    let highest = highest.unwrap_or(0);
    html.push_str(
        "<section class=\"card\" id=\"logins\" data-live aria-labelledby=\"h-logins\"><div class=\"head\">\
         <h2 id=\"h-logins\">Logins of the last hour</h2>\
         <div class=\"legend\"><span><svg viewBox=\"0 0 10 10\" aria-hidden=\"true\">\
         <rect class=\"yes\" width=\"10\" height=\"10\" rx=\"2\"/></svg>succeeded</span>\
         <span><svg viewBox=\"0 0 10 10\" aria-hidden=\"true\">\
         <rect class=\"no\" width=\"10\" height=\"10\" rx=\"2\"/></svg>failed</span></div></div>",
    );
    let width = WIDTH * MINUTES as u32;
    write!(
        html,
        "<svg class=\"chart\" viewBox=\"0 0 {width} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"{}\"><line class=\"axis\" x1=\"0\" y1=\"{HEIGHT}\" x2=\"{width}\" y2=\"{HEIGHT}\"/>\
         <line class=\"axis\" x1=\"0\" y1=\"0\" x2=\"{width}\" y2=\"0\"/>",
        in_words(minutes, all)
    )?;
    for (x, minute) in (0..).step_by(WIDTH as usize).zip(minutes) {
        let failed = bar(minute.failed, highest);
        let succeeded = bar(minute.succeeded, highest).min(HEIGHT - failed);
        for (class, height, below) in [("yes", succeeded, 0), ("no", failed, succeeded)] {
            if height > 0 {
                let y = HEIGHT - below - height;
                write!(
                    html,
                    "<rect class=\"{class}\" x=\"{}\" y=\"{y}\" width=\"{}\" height=\"{height}\"/>",
                    x + 1,
                    WIDTH - 2
                )?;
            }
        }
    }
    write!(
        html,
        "</svg><div class=\"scale\" aria-hidden=\"true\"><span>{}</span><span>{} a minute at most</span>\
         <span>{}</span></div>",
        before(MINUTES - 1),
        grouped(u64::from(highest)),
        before(0)
    )?;
    write_table(html, minutes)?;
    html.write_str("</section>")
}

fn write_table(html: &mut String, minutes: &[Minute; MINUTES]) -> fmt::Result {
    html.push_str(
        "<details><summary>The same as a table</summary><table>\
         <caption>Logins of the last hour, by five minutes</caption><thead><tr><th scope=\"col\">From</th>\
         <th scope=\"col\" class=\"number\">Succeeded</th><th scope=\"col\" class=\"number\">Failed</th></tr>\
         </thead><tbody>",
    );
    for (at, row) in minutes.chunks(ROW).enumerate() {
        let (succeeded, failed) = sum(row);
        write!(
            html,
            "<tr><td>{}</td><td class=\"number\">{}</td><td class=\"number\">{}</td></tr>",
            before(MINUTES - 1 - at * ROW),
            grouped(succeeded),
            grouped(failed)
        )?;
    }
    html.write_str("</tbody></table></details>")
}

/// The time so many minutes ago.
fn before(minutes: usize) -> String {
    let now = Timestamp::now();
    let ago = SignedDuration::from_mins(minutes as i64);
    at(now.saturating_sub(ago).unwrap_or(now), "%H:%M")
}

/// How many succeeded and failed.
fn sum(minutes: &[Minute]) -> (u64, u64) {
    let succeeded = minutes.iter().map(|minute| u64::from(minute.succeeded));
    let failed = minutes.iter().map(|minute| u64::from(minute.failed));
    (succeeded.sum(), failed.sum())
}

/// The height for a count; what is there at all can be seen.
fn bar(count: u32, highest: u32) -> u32 {
    let height = u64::from(count) * u64::from(HEIGHT) / u64::from(highest.max(1));
    let height = u32::try_from(height).unwrap_or(HEIGHT);
    height.max(if count > 0 { 2 } else { 0 })
}

fn in_words(minutes: &[Minute; MINUTES], (succeeded, failed): (u64, u64)) -> String {
    if succeeded + failed == 0 {
        return "Nobody has logged in within the last hour.".to_owned();
    }
    let mut text =
        format!("{succeeded} logins succeeded and {failed} failed within the last hour.");
    let worst = minutes.iter().rev().enumerate();
    let worst = worst.max_by_key(|(ago, minute)| (minute.failed, MINUTES - ago));
    if let Some((ago, minute)) = worst.filter(|(_, minute)| minute.failed > 0) {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            " Most failures in a minute: {}, {ago} minutes ago.",
            minute.failed
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_has_words_bars_and_a_table() {
        let mut minutes = [Minute::default(); MINUTES];
        let mut html = String::new();
        write(&mut html, &minutes).expect("a String takes everything");
        assert!(html.contains("Nobody has logged in") && !html.contains("height=\"2\""));
        minutes[59].succeeded = 1000;
        minutes[57].failed = 1;
        let mut html = String::new();
        write(&mut html, &minutes).expect("a String takes everything");
        let label = "1000 logins succeeded and 1 failed within the last hour. \
                     Most failures in a minute: 1, 2 minutes ago.";
        assert!(html.contains(label), "{html}");
        let full = "<rect class=\"yes\" x=\"591\" y=\"0\" width=\"8\" height=\"100\"/>";
        let least = "<rect class=\"no\" x=\"571\" y=\"98\" width=\"8\" height=\"2\"/>";
        assert!(html.contains(full) && html.contains(least), "{html}");
        assert!(html.contains("<td class=\"number\">1\u{202f}000</td><td class=\"number\">1</td>"));
    }
}
