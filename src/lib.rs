//! Postern, a mail proxy for IMAP, POP3 and SMTP. Read `session::run` first: it is the script of a session,
//! from its first byte to its relay.
//!
//! A map of the code, from the process down to the system. What stands further down knows nothing of
//! what stands above it; `.ci/arrows` makes sure of that.
//!
//! - `cli`, `daemon`, `front`, `accept`: the process, from arguments to accepted sockets.
//! - `control`: the socket over which an operator asks a running process, and the asking side.
//! - `status`: what is asked for over HTTP: numbers, and a page for people.
//! - `session::turn`: how a session gets its turns on a worker, and sleeps in between; `session::run`: what
//!   it does in them, up to the end of its login.
//! - `dialect`: the three protocols, a client-facing and a backend-facing half each. `session::dial` finds a
//!   host that serves. `session::relay` and `session::copy`: the two threads of a session that is
//!   logged in, and how it falls silent or ends.
//! - `session`: what a session carries along; `session::live`: all sessions as others may see and end them;
//!   `session::snapshot`: what an operator is shown of them; `session::rawlog`: what he reads along;
//!   `session::hibernate`: who waits without a thread; `session::goodbye`: the end before a relay;
//!   `session::check` and `session::user_place`: its places where `limits` allows so many;
//!   `session::lines` and `session::quoted`: what may stand in a session's log.
//! - `admission`: who is let in, and whose turn it is; `service`: one `[server]` at work.
//! - `limits`: what failed logins cost, and how many sessions a user has; what nodes can share of that stands behind
//!   `limits::store`.
//! - `metrics`: what is counted. `blocklist`: who is not let in at all.
//! - `auth`: a request goes in, a verdict comes out. `backend`: hosts, grants, routes, health; the
//!   connection to a host, and what a login and a visit have in common (`backend::talk`).
//! - `net`: sockets and connections, DNS, HTTP, PROXY headers. `config`: what an operator says.
//! - `sasl`: mechanisms, a row and a file each. `tls`: engines without I/O. `users`: a file of users with
//!   their passwords. `log`, `append` (numbers and addresses in
//!   texts), `system`, `protocol`, `secret`: on nothing else.
//!
//! Beside it: `demo` is `postern demo`, a mail store and an auth server to try the proxy with; `import` is
//! `postern import-nginx`; `keeper` is the small process that keeps root's rights for a Postern that was started
//! with them, asked through `system::keeper`; `trial` is `postern try-login`, one client and one session in a process
//! of their own; `survey` is `postern check --live`, which logs nobody in.
//!
//! Everything blocks, on a worker or in a relay's threads, and every wait has a deadline. Whoever waits
//! for a client, or for a time, holds no thread.

pub mod cli;
pub mod config;
pub mod import;

mod accept;
mod admission;
mod append;
mod auth;
mod backend;
mod blocklist;
mod control;
mod daemon;
mod demo;
mod dialect;
mod front;
mod keeper;
mod limits;
mod log;
mod metrics;
mod net;
mod protocol;
mod sasl;
mod secret;
mod service;
mod session;
mod status;
mod survey;
mod system;
mod tls;
mod trial;
mod users;
