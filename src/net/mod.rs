//! Everything that touches a socket, and the formats that stand before the first protocol line.
//!
//! Protocol parsers and TLS engines do no I/O; they are in `dialect` and `tls`.

pub(crate) mod address;
pub(crate) mod client_conn;
pub(crate) mod conn;
pub(crate) mod error;
mod handshake;
pub(crate) mod http;
mod input;
pub(crate) mod leg;
pub(crate) mod line;
pub(crate) mod listen;
pub(crate) mod pipe;
pub(crate) mod proxy_protocol;
pub(crate) mod race;
pub(crate) mod resolve;
pub(crate) mod socket;
