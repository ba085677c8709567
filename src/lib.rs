//! Postern, a mail proxy for IMAP, POP3 and SMTP. A map of the code:
//!
//! - `session::run` is the script of a session, from its first byte to its relay; read it first.
//! - `protocol`: what each of the three fixes: names, ports, fixed lines.
//! - `dialect`: the three protocols, a client-facing and a backend-facing half each; `sasl`: logins.
//! - `auth` asks whether a login may pass; `backend` reaches the server that it belongs to.
//! - `net`: sockets, connections, the relay, DNS, HTTP, PROXY headers; `tls`: engines without I/O.
//! - `demo` is `postern demo`: a mail store and an auth server to try the proxy with.
//! - `import` is `postern import-nginx`: a configuration of nginx's or Angie's mail proxy as ours.
//! - `config` reads the file, `log` writes lines, `daemon` is the process, `cli` its arguments.
//!
//! Everything blocks, and every wait has a deadline. One thread carries a session up to the end of
//! its login, two threads relay it afterwards.

pub mod accept;
pub mod admission;
pub mod auth;
pub mod backend;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod dialect;
pub mod front;
pub mod import;
pub mod log;
pub mod net;
pub mod protocol;
pub mod sasl;
pub mod secret;
pub mod service;
pub mod session;
pub mod system;
pub mod tls;
