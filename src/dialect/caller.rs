//! Who is calling, as a backend is told: by ID in IMAP, by XCLIENT in POP3 and SMTP.
//!
//! Nothing in it is the client's own claim.

use std::net::SocketAddr;

use crate::session::Session;

/// What a backend may be told of a client, besides what belongs to one protocol.
#[derive(Debug)]
pub(super) struct Caller {
    /// Where it is, after `set_real_ip_from`; `None` for a Unix socket.
    pub(super) address: Option<SocketAddr>,
    /// Our end of its connection.
    pub(super) local: Option<SocketAddr>,
    /// The session as our log has it.
    pub(super) session: String,
    /// How many more proxies the login may go through behind us.
    pub(super) ttl: u32,
    /// Whether the client speaks TLS with us.
    pub(super) has_tls: bool,
}

impl Caller {
    /// The client of this session.
    pub(super) fn of(session: &Session) -> Self {
        Self {
            address: session.client().socket(),
            local: session.local().socket(),
            session: session.full_number(),
            ttl: session.proxy_ttl.saturating_sub(1),
            has_tls: session.tls.is_some(),
        }
    }
}
