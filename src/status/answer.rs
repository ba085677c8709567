//! An answer: its status, its headers, its body. Values in, bytes out.

use std::fmt::Write;

/// What is sent back.
#[derive(Debug)]
pub(super) struct Answer {
    status: u16,
    media_type: &'static str,
    /// What of the body a browser may load or run.
    policy: String,
    /// Further lines of the head, each with its end.
    more: String,
    body: String,
}

/// Nothing is loaded, nothing is run, and no page has this in a frame.
const NOTHING: &str = "default-src 'none'; frame-ancestors 'none'";

impl Answer {
    /// A text for people.
    pub(super) fn text(status: u16, text: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", text.to_owned())
    }

    /// What a program reads.
    pub(super) fn data(media_type: &'static str, body: String) -> Self {
        Self::new(200, media_type, body)
    }

    /// A page whose own style and script have this nonce.
    pub(super) fn page(html: String, nonce: &str) -> Self {
        Self {
            policy: format!(
                "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; \
                 img-src data:; connect-src 'self'; form-action 'self'; base-uri 'none'; \
                 frame-ancestors 'none'"
            ),
            ..Self::new(200, "text/html; charset=utf-8", html)
        }
    }

    /// Another page is to be loaded; `target` is a path of ours.
    pub(super) fn see_other(target: &str) -> Self {
        Self {
            more: format!("Location: {target}\r\n"),
            ..Self::text(303, "")
        }
    }

    /// What can be asked for with these methods only.
    pub(super) fn wrong_method(allowed: &str) -> Self {
        Self {
            more: format!("Allow: {allowed}\r\n"),
            ..Self::text(405, "This cannot be asked for in this way.\n")
        }
    }

    fn new(status: u16, media_type: &'static str, body: String) -> Self {
        Self {
            status,
            media_type,
            policy: NOTHING.to_owned(),
            more: String::new(),
            body,
        }
    }

    /// As it is sent; without its body where only the head was asked for.
    pub(super) fn bytes(&self, with_body: bool) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            303 => "See Other",
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            413 => "Content Too Large",
            421 => "Misdirected Request",
            431 => "Request Header Fields Too Large",
            _ => "Internal Server Error",
        };
        let mut head = String::new();
        // Writing to a String cannot fail.
        let _ = write!(
            head,
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\
             Content-Security-Policy: {}\r\nX-Frame-Options: DENY\r\n\
             X-Content-Type-Options: nosniff\r\nReferrer-Policy: same-origin\r\n\
             Cross-Origin-Resource-Policy: same-origin\r\nCache-Control: no-store\r\n\
             Connection: close\r\n{}\r\n",
            self.status,
            self.media_type,
            self.body.len(),
            self.policy,
            self.more,
        );
        let mut bytes = head.into_bytes();
        if with_body {
            bytes.extend_from_slice(self.body.as_bytes());
        }
        bytes
    }
}
