//! How one line looks: nginx's text layout, or one JSON object.
//!
//! A line is bounded: its fields each by `FIELD_LIMIT`, its message by what is left of the line, so
//! that a long message never costs the fields behind it. No input makes a second line.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::escape::{self, closes_or_misleads, misleads, nothing};
use super::{Closing, Context, Severity, TextLayout};
use crate::append;

/// Bytes that a message may have, if the line's own limit allows.
const MESSAGE_LIMIT: usize = 2048;

/// A message is not shortened below this for the sake of a line's limit.
const MESSAGE_LEAST: usize = 128;

/// Bytes that any other field may have.
const FIELD_LIMIT: usize = 256;

/// Everything that a line is made from.
pub(super) struct Line<'a> {
    pub(super) time: Timestamp,
    pub(super) pid: u32,
    pub(super) tid: i32,
    pub(super) severity: Severity,
    pub(super) src: &'static str,
    pub(super) message: &'a str,
    pub(super) error: Option<&'a io::Error>,
    pub(super) context: Option<&'a Context<'a>>,
    /// Value of the JSON member `tags`.
    pub(super) tags: &'a str,
}

/// The process never forks, so that neither number changes, and a line need not ask the system for them.
static PID: LazyLock<u32> = LazyLock::new(std::process::id);

thread_local! {
    static TID: i32 = nix::unistd::gettid().as_raw();
}

impl<'a> Line<'a> {
    /// A line of this moment and this thread.
    pub(super) fn now(
        severity: Severity,
        src: &'static str,
        message: &'a str,
        error: Option<&'a io::Error>,
        context: Option<&'a Context<'a>>,
        tags: &'a str,
    ) -> Line<'a> {
        Line {
            time: Timestamp::now(),
            pid: *PID,
            tid: TID.with(|tid| *tid),
            severity,
            src,
            message,
            error,
            context,
            tags,
        }
    }

    /// The text layout, without newline, in at most about `limit` bytes.
    pub(super) fn text(&self, layout: TextLayout, zone: &TimeZone, limit: usize) -> String {
        fit(limit, |message_limit| {
            self.text_with(layout, zone, message_limit)
        })
    }

    /// The JSON layout, without newline, in at most about `limit` bytes.
    pub(super) fn json(&self, limit: usize) -> String {
        fit(limit, |message_limit| self.json_with(message_limit))
    }

    fn text_with(&self, layout: TextLayout, zone: &TimeZone, message_limit: usize) -> String {
        let mut out = String::with_capacity(512);
        let time = zone.to_datetime(self.time);
        push_date_and_time(&mut out, time);
        extend(&mut out, &[" [", self.severity.name(), "] "]);
        append::number(&mut out, self.pid);
        out.push('#');
        append::number(&mut out, self.tid);
        out.push_str(": ");
        if let Some(context) = self.context {
            out.push('*');
            append::number(&mut out, context.connection);
            out.push(' ');
        }
        // Callers escape what comes from the network; this keeps whatever they missed on one line.
        escape::append(&mut out, self.message.as_bytes(), message_limit, misleads);
        if let Some(closing) = self.context.and_then(|context| context.closing) {
            text_closing(&mut out, closing);
        }
        if let Some(error) = self.error {
            text_error(&mut out, error);
        }
        if let Some(context) = self.context {
            match layout {
                TextLayout::Angie => angie_context(&mut out, context),
                TextLayout::Nginx => nginx_context(&mut out, context),
            }
        }
        out
    }

    fn json_with(&self, message_limit: usize) -> String {
        let mut json = Object::open(String::with_capacity(512));
        json.raw("time", format_args!("\"{:.3}\"", self.time));
        json.number("pid", self.pid);
        json.number("tid", self.tid);
        json.text("level", self.severity.name());
        if let Some(context) = self.context {
            json.number("connection", context.connection);
        }
        json.bytes("message", self.message.as_bytes(), message_limit);
        json.text("src", file_name(self.src));
        if let Some(error) = self.error {
            json.nested("error", |json| json_error(json, error));
        }
        json.raw("tags", format_args!("{}", self.tags));
        if let Some(context) = self.context {
            json.nested("mail", |json| json_context(json, context));
            if let Some(closing) = context.closing {
                json.nested("session", |json| json_closing(json, closing));
            }
        }
        json.close()
    }
}

/// The zone of text lines: the system's at the first line.
pub(super) fn local_zone() -> &'static TimeZone {
    static ZONE: OnceLock<TimeZone> = OnceLock::new();
    ZONE.get_or_init(TimeZone::system)
}

/// Renders with a shorter and shorter message until the line is within `limit`.
fn fit(limit: usize, render: impl Fn(usize) -> String) -> String {
    let mut message_limit = MESSAGE_LIMIT;
    loop {
        let line = render(message_limit);
        if line.len() <= limit || message_limit <= MESSAGE_LEAST {
            return line;
        }
        message_limit /= 2;
    }
}

fn text_closing(out: &mut String, closing: &Closing<'_>) {
    text_word(out, "protocol", Some(closing.protocol));
    text_word(out, "method", closing.method);
    text_word(out, "tls", closing.tls);
    text_word(out, "backend", closing.backend);
    text_word(out, "backend_tls", closing.backend_tls);
    for (name, bytes) in [("in", closing.bytes_in), ("out", closing.bytes_out)] {
        extend(out, &[" ", name, "="]);
        append::number(out, bytes);
    }
    for (name, time) in times(closing) {
        if let Some(time) = time {
            extend(out, &[" ", name, "="]);
            push_seconds(out, time);
        }
    }
    if let Some(bytes) = closing.undelivered {
        out.push_str(" undelivered=");
        append::number(out, bytes);
    }
    out.push_str(" reason=");
    text_quoted(out, closing.reason.as_bytes());
}

/// The times of the closing line; not every session has all of them.
fn times(closing: &Closing<'_>) -> [(&'static str, Option<Duration>); 4] {
    [
        ("duration", Some(closing.duration)),
        ("login_time", closing.login_time),
        ("auth_time", closing.auth_time),
        ("backend_time", closing.backend_time),
    ]
}

/// ` NAME=VALUE`, the value in quotes unless it is a plain word.
fn text_word(out: &mut String, name: &str, value: Option<&str>) {
    let Some(value) = value else { return };
    extend(out, &[" ", name, "="]);
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\' | b'=' | b',');
    if !value.is_empty() && value.len() <= FIELD_LIMIT && value.bytes().all(plain) {
        return out.push_str(value);
    }
    text_quoted(out, value.as_bytes());
}

fn text_error(out: &mut String, error: &io::Error) {
    out.push_str(" (");
    if let Some(code) = error.raw_os_error() {
        append::number(out, code);
        out.push_str(": ");
    }
    escape::append(out, error_text(error).as_bytes(), FIELD_LIMIT, misleads);
    out.push(')');
}

fn angie_context(out: &mut String, context: &Context<'_>) {
    if let Some(action) = context.action {
        extend(out, &[" while ", action]);
    }
    text_address(out, "client", context.client);
    if context.peer != context.client {
        text_address(out, "peer", context.peer);
    }
    text_address(out, "server", context.server);
    text_field(out, "starttls", context.starttls.then_some(b"true"));
    text_field(out, "login", context.login);
    text_field(out, "upstream", context.upstream.map(str::as_bytes));
}

/// As `ngx_mail_log_error` writes it. There is no peer in it, as nginx's `realip` has none: rules for
/// these lines expect nothing else between its fields.
fn nginx_context(out: &mut String, context: &Context<'_>) {
    if let Some(action) = context.action {
        extend(out, &[" while ", action]);
    }
    match context.client {
        Some(client) => {
            out.push_str(", client: ");
            append::ip(out, client.ip());
        }
        None => out.push_str(", client: unix:"),
    }
    if context.starttls {
        out.push_str(" using starttls");
    }
    out.push_str(", server: ");
    push_address(out, context.server);
    text_field(out, "login", context.login);
    if let Some(upstream) = context.upstream {
        out.push_str(", upstream: ");
        escape::append(out, upstream.as_bytes(), FIELD_LIMIT, misleads);
    }
}

/// `, NAME: "ADDR:PORT"`.
fn text_address(out: &mut String, name: &str, address: Option<SocketAddr>) {
    extend(out, &[", ", name, ": \""]);
    push_address(out, address);
    out.push('"');
}

fn text_field(out: &mut String, name: &str, value: Option<&[u8]>) {
    let Some(value) = value else { return };
    extend(out, &[", ", name, ": "]);
    text_quoted(out, value);
}

fn text_quoted(out: &mut String, value: &[u8]) {
    out.push('"');
    escape::append(out, value, FIELD_LIMIT, closes_or_misleads);
    out.push('"');
}

fn json_error(json: &mut Object, error: &io::Error) {
    json.bytes("message", error_text(error).as_bytes(), FIELD_LIMIT);
    if let Some(code) = error.raw_os_error() {
        json.number("code", code);
    }
}

fn json_context(json: &mut Object, context: &Context<'_>) {
    json.text_if("action", context.action);
    json.address("client", context.client);
    if context.peer != context.client {
        json.address("peer", context.peer);
    }
    json.address("server", context.server);
    json.text_if("starttls", context.starttls.then_some("true"));
    if let Some(login) = context.login {
        json.bytes("login", login, FIELD_LIMIT);
    }
    json.text_if("upstream", context.upstream);
}

fn json_closing(json: &mut Object, closing: &Closing<'_>) {
    json.text("protocol", closing.protocol);
    json.text_if("method", closing.method);
    json.text_if("tls", closing.tls);
    json.text_if("backend", closing.backend);
    json.text_if("backend_tls", closing.backend_tls);
    json.number("in", closing.bytes_in);
    json.number("out", closing.bytes_out);
    for (name, time) in times(closing) {
        if let Some(time) = time {
            json.name(name);
            push_seconds(&mut json.out, time);
        }
    }
    if let Some(bytes) = closing.undelivered {
        json.number("undelivered", bytes);
    }
    json.text("reason", closing.reason);
}

/// What the system says about an error, without Rust's ` (os error N)`.
fn error_text(error: &io::Error) -> String {
    let mut text = error.to_string();
    if let Some(code) = error.raw_os_error()
        && let Some(end) = text
            .strip_suffix(&format!(" (os error {code})"))
            .map(str::len)
    {
        text.truncate(end);
    }
    text
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(arguments);
}

/// `2026/01/31 09:05:00`.
fn push_date_and_time(out: &mut String, time: DateTime) {
    append::last_digits::<4>(out, time.year().unsigned_abs().into());
    for (before, part) in [
        ('/', time.month()),
        ('/', time.day()),
        (' ', time.hour()),
        (':', time.minute()),
        (':', time.second()),
    ] {
        out.push(before);
        append::last_digits::<2>(out, part.unsigned_abs().into());
    }
}

/// Seconds with milliseconds, `1.234`: a number in JSON too.
fn push_seconds(out: &mut String, duration: Duration) {
    append::number(out, duration.as_secs());
    out.push('.');
    append::last_digits::<3>(out, duration.subsec_millis());
}

/// `ADDR:PORT`, or `unix:` where there is none.
fn push_address(out: &mut String, address: Option<SocketAddr>) {
    match address {
        Some(address) => append::socket_address(out, address),
        None => out.push_str("unix:"),
    }
}

fn extend(out: &mut String, parts: &[&str]) {
    parts.iter().for_each(|part| out.push_str(part));
}

/// A JSON object under construction; its members keep their order.
struct Object {
    out: String,
    empty: bool,
}

impl Object {
    fn open(mut out: String) -> Object {
        out.push('{');
        Object { out, empty: true }
    }

    fn close(mut self) -> String {
        self.out.push('}');
        self.out
    }

    /// A member whose value is JSON already.
    fn raw(&mut self, name: &str, value: std::fmt::Arguments<'_>) {
        self.name(name);
        push(&mut self.out, value);
    }

    fn number(&mut self, name: &str, value: impl itoa::Integer) {
        self.name(name);
        append::number(&mut self.out, value);
    }

    fn address(&mut self, name: &str, value: Option<SocketAddr>) {
        self.name(name);
        self.out.push('"');
        push_address(&mut self.out, value);
        self.out.push('"');
    }

    fn text(&mut self, name: &str, value: &str) {
        self.bytes(name, value.as_bytes(), FIELD_LIMIT);
    }

    fn text_if(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    /// A string member; bytes that are not UTF-8 become `\xHH`, as in text.
    fn bytes(&mut self, name: &str, value: &[u8], limit: usize) {
        self.name(name);
        let mut text = String::with_capacity(value.len().min(limit));
        escape::append(&mut text, value, limit, nothing);
        let printable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let quoted = Value::String(text);
        if printable {
            return push(&mut self.out, format_args!("{quoted}"));
        }
        // serde_json escapes ASCII controls only; the rest would still reach a terminal.
        for c in quoted.to_string().chars() {
            if misleads(c) {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    push(&mut self.out, format_args!("\\u{unit:04x}"));
                }
            } else {
                self.out.push(c);
            }
        }
    }

    fn nested(&mut self, name: &str, fill: impl FnOnce(&mut Object)) {
        self.name(name);
        let mut inner = Object::open(std::mem::take(&mut self.out));
        fill(&mut inner);
        self.out = inner.close();
    }

    fn name(&mut self, name: &str) {
        if !self.empty {
            self.out.push(',');
        }
        self.empty = false;
        extend(&mut self.out, &["\"", name, "\":"]);
    }
}

#[cfg(test)]
mod tests;
