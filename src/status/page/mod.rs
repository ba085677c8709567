//! `/`: the page for people. What listens, the backends, the sessions, the certificates, and how logins go.
//!
//! One answer, whole without its script, and without anything else being loaded. Whatever comes from the
//! network or the configuration goes through [`Escaped`]. How things are said is in `words`, the figure in
//! `chart`, the tables in `tables`.

mod chart;
mod tables;
mod words;

use std::fmt::{self, Write};

use jiff::Timestamp;

use super::answer::Answer;
use super::request::Request;
use super::{HostState, Shown, Site, is_this_machine, random_word, uptime};
use crate::metrics::Minute;
use crate::net::address::Address;
use crate::tls::CertificateInUse;

use words::{Escaped, at, grouped, in_days, in_time};

/// A certificate that expires within so many days needs somebody.
const SOON: i64 = 14;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The answer.
pub(super) fn page(site: &Site, shown: &Shown, request: &Request, peer: Address) -> Answer {
    let Ok(nonce) = random_word() else {
        return Answer::text(500, "The system has no random numbers.\n");
    };
    let (hosts, certificates) = (shown.hosts(), certificates(shown));
    let view = View {
        site,
        shown,
        troubles: troubles(site, shown, &hosts, &certificates),
        hosts,
        certificates,
        may_end: is_this_machine(peer),
        search: request.query("search").unwrap_or_default(),
        ended: request.query("ended").and_then(|text| text.parse().ok()),
    };
    let mut html = String::new();
    // Writing to a String cannot fail.
    let _ = view.write(&mut html, &nonce);
    Answer::page(html, &nonce)
}

/// What one page is made of.
struct View<'a> {
    site: &'a Site,
    shown: &'a Shown,
    /// What somebody should look after, in whole sentences, escaped.
    troubles: Vec<String>,
    hosts: Vec<HostState>,
    /// The first to expire first.
    certificates: Vec<Certificate>,
    /// Whether the reader may end sessions.
    may_end: bool,
    /// What is looked for among the sessions.
    search: String,
    /// The session that was told to end just now.
    ended: Option<u64>,
}

/// A certificate, and the servers that show it.
struct Certificate {
    servers: Vec<String>,
    in_use: CertificateInUse,
}

impl Certificate {
    /// Whole days until it expires; less than none when it has.
    fn days(&self) -> i64 {
        let left = self.in_use.not_after - Timestamp::now().as_second();
        left.div_euclid(86_400)
    }
}

fn certificates(shown: &Shown) -> Vec<Certificate> {
    let mut found: Vec<Certificate> = Vec::new();
    for (service, in_use) in shown.certificates() {
        let server = service.conf.name.clone();
        match found.iter_mut().find(|known| known.in_use == in_use) {
            Some(known) => known.servers.push(server),
            None => found.push(Certificate {
                servers: vec![server],
                in_use,
            }),
        }
    }
    found.sort_by_key(|certificate| certificate.in_use.not_after);
    found
}

fn troubles(
    site: &Site,
    shown: &Shown,
    hosts: &[HostState],
    certificates: &[Certificate],
) -> Vec<String> {
    let mut found = Vec::new();
    if shown.reload_failed {
        found.push(format!(
            "The last change of the configuration was not accepted; that of {} is still in use. The \
             log says what is wrong with it.",
            at(shown.since, "%-d %B, %H:%M")
        ));
    }
    for host in hosts.iter().filter(|host| host.is_down) {
        found.push(format!(
            "{} of the backend {} did not serve {} when it was last tried.",
            Escaped(&host.host),
            Escaped(&host.backend),
            host.protocol.name().to_uppercase()
        ));
    }
    for certificate in certificates {
        let days = certificate.days();
        if days < SOON {
            let names = Escaped(&certificate.in_use.names);
            found.push(format!("The certificate for {names} {}.", in_days(days)));
        }
    }
    let (sessions, limit) = (
        site.runtime.admission.sessions(),
        shown.process.max_sessions,
    );
    if sessions * 10 >= limit * 9 {
        found.push(format!(
            "{sessions} of {limit} possible sessions are in use; see <code>max_sessions</code>."
        ));
    }
    found
}

fn in_short(troubles: usize) -> String {
    match troubles {
        0 => "All is well".to_owned(),
        1 => "One thing needs attention".to_owned(),
        count => format!("{count} things need attention"),
    }
}

/// A number with a name.
struct Tile {
    name: &'static str,
    big: String,
    more: String,
    is_bad: bool,
}

impl View<'_> {
    fn write(&self, html: &mut String, nonce: &str) -> fmt::Result {
        let host = nix::unistd::gethostname().unwrap_or_default();
        let host = host.to_string_lossy();
        let short = in_short(self.troubles.len());
        let class = if self.troubles.is_empty() {
            "good"
        } else {
            "bad"
        };
        write!(
            html,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\">\
             <title>{short} – Postern on {host}</title><link rel=\"icon\" href=\"data:,\">\
             <style nonce=\"{nonce}\">{STYLE}</style></head>\n<body>\
             <a class=\"skip\" href=\"#main\">Skip to the content</a>\
             <header><h1>Postern <span>on {host}</span></h1>\
             <p class=\"pill {class}\" id=\"state\" data-live>{short}</p>\
             <label class=\"refresh\" hidden><input type=\"checkbox\" id=\"refresh\"> \
             Refresh every 10 seconds</label></header>\n<main id=\"main\">",
            host = Escaped(&host),
        )?;
        if let Some(number) = self.ended {
            write!(
                html,
                "<p class=\"card told\" role=\"status\">Session {number} was told to end.</p>"
            )?;
        }
        self.write_troubles(html)?;
        let minutes = self.site.runtime.lately.minutes();
        self.write_tiles(html, &minutes)?;
        chart::write(html, &minutes)?;
        tables::sessions(html, self)?;
        html.push_str("<div class=\"pair\">");
        tables::backends(html, &self.hosts)?;
        tables::certificates(html, &self.certificates)?;
        html.push_str("</div>");
        tables::listeners(html, &self.shown.listening)?;
        tables::failures(html, &self.site.runtime.lately.failures())?;
        write!(
            html,
            "</main>\n<footer id=\"foot\" data-live>Postern {} · running for {} · configuration of {} · \
             as of {} · <a href=\"/metrics\">metrics</a> · <a href=\"/sessions\">sessions as JSON</a>\
             </footer><script nonce=\"{nonce}\">{SCRIPT}</script></body></html>\n",
            env!("CARGO_PKG_VERSION"),
            in_time(uptime(self.site)),
            at(self.shown.since, "%-d %B, %H:%M"),
            at(Timestamp::now(), "%H:%M:%S %Z"),
        )
    }

    fn write_troubles(&self, html: &mut String) -> fmt::Result {
        let hidden = if self.troubles.is_empty() {
            " hidden"
        } else {
            ""
        };
        write!(
            html,
            "<section class=\"card trouble\" id=\"troubles\" data-live aria-labelledby=\"h-troubles\"{hidden}>\
             <h2 id=\"h-troubles\">Needs attention</h2><ul>"
        )?;
        for trouble in &self.troubles {
            write!(html, "<li>{trouble}</li>")?;
        }
        html.write_str("</ul></section>")
    }

    fn write_tiles(&self, html: &mut String, minutes: &[Minute]) -> fmt::Result {
        html.push_str("<dl class=\"tiles\" id=\"tiles\" data-live>");
        for tile in self.tiles(minutes) {
            let class = if tile.is_bad { " bad" } else { "" };
            write!(
                html,
                "<div><dt>{}</dt><dd class=\"big{class}\">{}</dd><dd class=\"more\">{}</dd></div>",
                tile.name, tile.big, tile.more
            )?;
        }
        html.write_str("</dl>")
    }

    fn tiles(&self, minutes: &[Minute]) -> Vec<Tile> {
        let entries = self.site.runtime.live.all();
        let logged_in = entries.iter().filter(|entry| entry.is_relayed()).count();
        let most = grouped(self.shown.process.max_sessions as u64);
        let sum = |of: fn(&Minute) -> u32| minutes.iter().map(|m| u64::from(of(m))).sum::<u64>();
        let tile = |name, big, more: &str| Tile {
            name,
            big,
            more: more.to_owned(),
            is_bad: false,
        };
        let mut tiles = vec![
            Tile {
                name: "Sessions",
                big: grouped(entries.len() as u64),
                more: format!("{} logged in · {most} at most", grouped(logged_in as u64)),
                is_bad: false,
            },
            tile("Logins", grouped(sum(|m| m.succeeded)), "in the last hour"),
            tile(
                "Failed logins",
                grouped(sum(|m| m.failed)),
                "in the last hour",
            ),
        ];
        let hosts = &self.hosts;
        if !hosts.is_empty() {
            let up = hosts.iter().filter(|host| !host.is_down).count();
            let is_bad = up < hosts.len();
            let more = if is_bad { "serve" } else { "all serve" };
            let big = format!("{up} of {}", hosts.len());
            tiles.push(Tile {
                is_bad,
                ..tile("Backends", big, more)
            });
        }
        if let Some(next) = self.certificates.first() {
            let days = next.days();
            let big = match days {
                ..=-1 => "expired".to_owned(),
                1 => "1 day".to_owned(),
                days => format!("{days} days"),
            };
            let more = if days < 0 {
                "renew it"
            } else {
                "until the first expires"
            };
            tiles.push(Tile {
                is_bad: days < SOON,
                ..tile("Certificates", big, more)
            });
        }
        tiles
    }
}
