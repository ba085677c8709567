//! HAProxy in TCP mode, which knows nothing of mail: the servers behind it do the login themselves. It
//! shows what passing bytes and TLS cost alone.

use std::path::Path;

use super::Order;
use crate::process::{self, Process};

const PROGRAM: &str = "/usr/sbin/haproxy";

pub(super) fn version() -> Result<String, String> {
    let said = process::run(Path::new(PROGRAM), &["-v"])?;
    let words: Vec<&str> = said.split(' ').take(3).collect();
    Ok(words.join(" "))
}

pub(super) fn start(order: &Order<'_>) -> Result<Process, String> {
    let file = order.write("haproxy.cfg", &config(order))?;
    let arguments = ["-db", "-f", &file].map(str::to_owned);
    Process::start(Path::new(PROGRAM), &arguments, &order.log)
}

fn config(order: &Order<'_>) -> String {
    let tls = order.places.tls.map_or_else(String::new, |tls| {
        format!(
            "    bind {tls} ssl crt {}\n",
            order.certificate().both.display()
        )
    });
    format!(
        "global\n    maxconn {}\ndefaults\n    mode tcp\n    option splice-auto\n    \
         timeout connect 5s\n    timeout client 1h\n    timeout server 1h\n\
         listen mail\n    bind {}\n{tls}    server stub {}\n",
        // Beside its two sockets every fourth connection may have a pipe to splice through.
        order.connections() * 4 / 5,
        order.places.plain,
        order.stub()
    )
}
