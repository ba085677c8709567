//! Signals as messages: INT through ctrlc, the others through signal-hook, one channel for all.

use crossbeam_channel::{Receiver, unbounded};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;

use super::threads::spawn;

/// What the administrator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// INT, TERM: end now.
    Stop,
    /// QUIT: end when the sessions have.
    Drain,
    /// HUP: read the configuration again.
    Reload,
    /// USR1: open the log files again.
    Reopen,
    /// CHLD: see who has ended. Nobody's wish, but it comes the same way.
    LookAfterChild,
}

/// Listens for signals from now on.
///
/// # Errors
/// For people: the system refused a handler.
pub(crate) fn listen() -> Result<Receiver<Wish>, String> {
    let failed = |error: String| format!("cannot handle signals: {error}");
    let (sender, wishes) = unbounded();
    let of_ctrlc = sender.clone();
    let stop = move || {
        // Nobody listens any more when the process is ending already.
        let _ = of_ctrlc.send(Wish::Stop);
    };
    ctrlc::set_handler(stop).map_err(|error| failed(error.to_string()))?;
    let mut signals = Signals::new([SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGCHLD])
        .map_err(|error| failed(error.to_string()))?;
    let pass_on = move || {
        for signal in signals.forever() {
            let wish = match signal {
                SIGHUP => Wish::Reload,
                SIGQUIT => Wish::Drain,
                SIGUSR1 => Wish::Reopen,
                SIGCHLD => Wish::LookAfterChild,
                _ => Wish::Stop,
            };
            if sender.send(wish).is_err() {
                return;
            }
        }
    };
    spawn("signals", pass_on).map_err(|error| failed(error.to_string()))?;
    Ok(wishes)
}
