//! What every integration test shares: the proxy under test, an auth server that remembers what it
//! was asked, raw clients, real client programs, temporary folders, waiting for facts.
//!
//! Nothing here knows what a right answer is; that stands in the tests.

pub(crate) mod auth_server;
pub(crate) mod browser;
pub(crate) mod crowd;
pub(crate) mod janitor;
pub(crate) mod line_client;
pub(crate) mod operate;
pub(crate) mod ports;
pub(crate) mod postern;
pub(crate) mod process;
pub(crate) mod started;
pub(crate) mod temp;
pub(crate) mod tools;
pub(crate) mod wait;

use std::net::SocketAddr;

use auth_server::{Answer, AuthServer};
use postern::Postern;

/// A `[server NAME]` section named like its protocol, on a port chosen by the system.
pub(crate) fn service(protocol: &str, auth: &AuthServer, more: &str) -> String {
    let url = auth.url();
    format!(
        "[server {protocol}]\nprotocol = {protocol}\nlisten = 127.0.0.1:0\n\
         server_name = proxy.test\nauth_http = {url}\n{more}\n"
    )
}

/// The proxy with one service, in front of `backend`, which every login is sent to unchanged.
pub(crate) fn proxy_to(protocol: &str, backend: SocketAddr, more: &str) -> (Postern, AuthServer) {
    let auth = AuthServer::start(move |_| Answer::ok(backend));
    let postern = Postern::start(&service(protocol, &auth, more));
    (postern, auth)
}

pub(crate) mod tls;
