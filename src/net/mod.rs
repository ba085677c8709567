//! Everything that touches a socket, and the formats that stand before the first protocol line.
//!
//! Protocol parsers and TLS engines do no I/O; they are in `dialect` and `tls`.

pub mod address;
pub mod client_conn;
pub mod conn;
pub mod error;
mod handshake;
pub mod http;
mod input;
pub mod leg;
pub mod line;
pub mod listen;
pub mod proxy_protocol;
pub mod resolve;
pub mod socket;
