//! The tables of the page.

use std::fmt::{self, Write};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::words::{Escaped, at, grouped, in_bytes, in_days, in_time};
use super::{Certificate, SOON, View};
use crate::config::Starttls;
use crate::front::Listening;
use crate::metrics::FailedLogin;
use crate::session::snapshot::{Snapshot, State};
use crate::status::HostState;
use crate::status::sessions::search;

/// Most sessions on the page: whoever has more searches.
const MOST: usize = 100;

/// The beginning of a table in a card of its own; `columns` are their names.
fn begin(html: &mut String, id: &str, caption: &str, columns: &[&str]) -> fmt::Result {
    write!(
        html,
        "<table class=\"wide\" role=\"table\"><caption id=\"c-{id}\">{caption}</caption>\
         <thead role=\"rowgroup\"><tr role=\"row\">"
    )?;
    for column in columns {
        write!(
            html,
            "<th scope=\"col\" role=\"columnheader\">{column}</th>"
        )?;
    }
    html.write_str("</tr></thead><tbody role=\"rowgroup\">")
}

fn card(html: &mut String, id: &str, heading: &str) -> fmt::Result {
    write!(
        html,
        "<section class=\"card\" id=\"{id}\" data-live aria-labelledby=\"h-{id}\">\
         <div class=\"head\"><h2 id=\"h-{id}\">{heading}</h2></div>"
    )
}

fn cell(html: &mut String, label: &str, content: impl fmt::Display) -> fmt::Result {
    write!(
        html,
        "<td role=\"cell\" data-label=\"{label}\"><div>{content}</div></td>"
    )
}

/// A cell with a second line.
fn cell_with(
    html: &mut String,
    label: &str,
    content: impl fmt::Display,
    more: impl fmt::Display,
) -> fmt::Result {
    write!(
        html,
        "<td role=\"cell\" data-label=\"{label}\"><div>{content} <span class=\"more\">{more}</span></div></td>"
    )
}

/// The sessions that were searched for, each with a button for who may end it.
pub(super) fn sessions(html: &mut String, view: &View<'_>) -> fmt::Result {
    let found = search(&view.site.runtime, &view.search, MOST);
    write!(
        html,
        "<section class=\"card\" aria-labelledby=\"h-sessions\"><div class=\"head\">\
         <h2 id=\"h-sessions\">Sessions</h2>\
         <form class=\"search\" method=\"get\" action=\"/#h-sessions\" role=\"search\">\
         <label for=\"search\" class=\"soft\">Login, address, server or state</label>\
         <input type=\"search\" id=\"search\" name=\"search\" value=\"{}\" maxlength=\"200\">\
         <button>Search</button></form></div><div id=\"sessions\" data-live>",
        Escaped(&view.search)
    )?;
    if found.sessions.is_empty() {
        let text = match view.search.is_empty() {
            true => "Nobody is connected.",
            false => "No session fits.",
        };
        write!(html, "<p class=\"note\">{text}</p>")?;
    } else {
        let columns = [
            "Login",
            "Client",
            "Server",
            "State",
            "Backend",
            "Since",
            "Relayed",
            "<span class=\"unseen\">End it</span>",
        ];
        let shown = if view.may_end { 8 } else { 7 };
        begin(
            html,
            "sessions",
            "Sessions, the oldest first",
            &columns[..shown],
        )?;
        for session in &found.sessions {
            self::session(html, view, session)?;
        }
        html.push_str("</tbody></table>");
    }
    if found.all > found.sessions.len() {
        write!(
            html,
            "<p class=\"note\">{} of {}, the oldest first. Search to see others.</p>",
            found.sessions.len(),
            grouped(found.all as u64)
        )?;
    }
    if !view.may_end {
        html.push_str("<p class=\"note\">Sessions can be ended from the machine itself only.</p>");
    }
    html.write_str("</div></section>")
}

fn session(html: &mut String, view: &View<'_>, session: &Snapshot) -> fmt::Result {
    let user = session.user.as_deref();
    html.push_str("<tr role=\"row\">");
    match user {
        Some(user) => cell(html, "Login", Escaped(user))?,
        None => cell(html, "Login", "<span class=\"soft\">not yet known</span>")?,
    }
    cell_with(
        html,
        "Client",
        Escaped(&session.client.to_string()),
        Escaped(session.tls.as_deref().unwrap_or("plain text")),
    )?;
    let protocol = session.protocol.to_uppercase();
    cell_with(html, "Server", Escaped(&session.server), protocol)?;
    let (class, state) = match session.state {
        State::BeforeLogin => ("", "before login"),
        State::LoggingIn => ("busy", "logging in"),
        State::Relaying => ("good", "logged in"),
        State::Hibernating => ("good", "logged in, silent"),
        State::Ending => ("", "ending"),
    };
    cell(
        html,
        "State",
        format_args!("<span class=\"dot {class}\">{state}</span>"),
    )?;
    match &session.backend {
        Some(backend) => {
            let tls = session.backend_tls.as_deref().unwrap_or("plain text");
            cell_with(html, "Backend", Escaped(backend), Escaped(tls))?;
        }
        None => cell(html, "Backend", "<span class=\"soft\">none</span>")?,
    }
    let idle = in_time(session.idle);
    cell_with(
        html,
        "Since",
        in_time(session.age),
        format_args!("silent {idle}"),
    )?;
    let (up, down) = (in_bytes(session.bytes_up), in_bytes(session.bytes_down));
    cell_with(
        html,
        "Relayed",
        format_args!("{up} in"),
        format_args!("{down} out"),
    )?;
    if view.may_end {
        end_button(html, session, &view.site.token)?;
    }
    html.write_str("</tr>")
}

fn end_button(html: &mut String, session: &Snapshot, token: &str) -> fmt::Result {
    let number = session.number;
    let who = match &session.user {
        Some(user) => format!("session {number} of {user}"),
        None => format!("session {number}"),
    };
    write!(
        html,
        "<td role=\"cell\" data-label=\"\"><form method=\"post\" action=\"/kick\" \
         data-question=\"End {who}?\"><input type=\"hidden\" name=\"session\" value=\"{number}\">\
         <input type=\"hidden\" name=\"token\" value=\"{token}\">\
         <button class=\"end\" aria-label=\"End {who}\">End</button></form></td>",
        who = Escaped(&who),
    )
}

/// The hosts of the backends.
pub(super) fn backends(html: &mut String, hosts: &[HostState]) -> fmt::Result {
    card(html, "backends", "Backends")?;
    if hosts.is_empty() {
        html.push_str("<p class=\"note\">None is configured: the auth server names them.</p>");
        return html.write_str("</section>");
    }
    begin(
        html,
        "backends",
        "Hosts of the backends",
        &["Host", "Backend", "Protocol", "State"],
    )?;
    for host in hosts {
        html.push_str("<tr role=\"row\">");
        cell(html, "Host", Escaped(&host.host))?;
        cell(html, "Backend", Escaped(&host.backend))?;
        cell(html, "Protocol", host.protocol.name().to_uppercase())?;
        let state = match host.is_down {
            true => "<span class=\"dot bad\">does not serve</span>",
            false => "<span class=\"dot good\">serves</span>",
        };
        cell(html, "State", state)?;
        html.push_str("</tr>");
    }
    html.write_str("</tbody></table></section>")
}

/// The certificates that clients are shown.
pub(super) fn certificates(html: &mut String, certificates: &[Certificate]) -> fmt::Result {
    card(html, "certificates", "Certificates")?;
    if certificates.is_empty() {
        html.push_str("<p class=\"note\">None is configured.</p>");
        return html.write_str("</section>");
    }
    begin(
        html,
        "certificates",
        "Certificates that clients are shown",
        &["For", "Server", "Expires"],
    )?;
    for certificate in certificates {
        let in_use = &certificate.in_use;
        html.push_str("<tr role=\"row\">");
        let file = in_use.file.display().to_string();
        cell_with(html, "For", Escaped(&in_use.names), Escaped(&file))?;
        cell(html, "Server", Escaped(&certificate.servers.join(", ")))?;
        let days = certificate.days();
        let class = match days {
            ..0 => "bad",
            0..SOON => "warn",
            _ => "good",
        };
        let day = Timestamp::from_second(in_use.not_after).unwrap_or(Timestamp::MAX);
        cell_with(
            html,
            "Expires",
            format_args!(
                "<span class=\"dot {class}\">{}</span>",
                at(day, "%-d %b %Y")
            ),
            in_days(days),
        )?;
        html.push_str("</tr>");
    }
    html.write_str("</tbody></table></section>")
}

/// Where servers listen.
pub(super) fn listeners(html: &mut String, listening: &[Listening]) -> fmt::Result {
    card(html, "listeners", "Listening")?;
    begin(
        html,
        "listeners",
        "Where servers listen",
        &["Address", "Server", "Protocol", "TLS"],
    )?;
    for one in listening {
        let tls = match one.starttls {
            _ if one.ssl => "from the first byte",
            Starttls::Off => "none",
            Starttls::On => "offered (STARTTLS)",
            Starttls::Only => "required (STARTTLS)",
        };
        html.push_str("<tr role=\"row\">");
        cell(html, "Address", Escaped(&one.address))?;
        cell(html, "Server", Escaped(&one.server))?;
        cell(html, "Protocol", one.protocol.name().to_uppercase())?;
        cell(html, "TLS", tls)?;
        html.push_str("</tr>");
    }
    html.write_str("</tbody></table></section>")
}

/// The last logins that failed, with the reasons.
pub(super) fn failures(html: &mut String, failures: &[Arc<FailedLogin>]) -> fmt::Result {
    card(html, "failures", "Failed logins")?;
    if failures.is_empty() {
        html.push_str("<p class=\"note\">No login has failed since Postern was started.</p>");
        return html.write_str("</section>");
    }
    let columns = ["When", "Login", "Client", "Server", "Why"];
    begin(
        html,
        "failures",
        "The last logins that failed, the latest first",
        &columns,
    )?;
    let now = Timestamp::now();
    for failed in failures {
        html.push_str("<tr role=\"row\">");
        let is_old = now.duration_since(failed.at) > SignedDuration::from_hours(18);
        let format = if is_old { "%-d %b, %H:%M" } else { "%H:%M:%S" };
        cell(html, "When", at(failed.at, format))?;
        cell_with(
            html,
            "Login",
            Escaped(&failed.login),
            Escaped(failed.method),
        )?;
        cell(html, "Client", Escaped(&failed.client.to_string()))?;
        let protocol = failed.server.protocol.name().to_uppercase();
        cell_with(html, "Server", Escaped(&failed.server.name), protocol)?;
        cell_with(
            html,
            "Why",
            failed.outcome.in_words(),
            Escaped(&failed.detail),
        )?;
        html.push_str("</tr>");
    }
    html.write_str("</tbody></table></section>")
}
