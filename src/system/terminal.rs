//! Asking for a password at the terminal. Nothing is echoed meanwhile, and however the question ends, the
//! terminal is what it was before.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use zeroize::Zeroizing;

use super::threads::spawn;

/// Longest password, in bytes.
const LONGEST: usize = 2048;

/// Asks at the terminal of this process and reads a line, its end cut off. A signal that ends the process
/// gives the terminal its echo back first.
///
/// # Errors
/// There is no terminal, its stream ends before the line does, or the line is longer than 2048 bytes.
pub(crate) fn ask_without_echo(question: &str) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut terminal = File::options().read(true).write(true).open("/dev/tty")?;
    let before = tcgetattr(&terminal)?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes.insert(LocalModes::ECHONL);
    let mut signals = Signals::new([SIGINT, SIGQUIT, SIGTERM, SIGHUP])?;
    let (of_thread, restored) = (terminal.try_clone()?, before.clone());
    let end = move || {
        for signal in signals.forever() {
            let _ = tcsetattr(&of_thread, OptionalActions::Now, &restored);
            let _ = emulate_default_handler(signal);
        }
    };
    // It goes on afterwards: without it these signals would be lost.
    spawn("signals", end)?;
    tcsetattr(&terminal, OptionalActions::Flush, &silent)?;
    let asked = terminal.write_all(question.as_bytes());
    let read = asked.and_then(|()| read_line(&mut terminal));
    tcsetattr(&terminal, OptionalActions::Now, &before)?;
    read
}

/// The first line of standard input, its end cut off; the end of the input ends it too.
///
/// # Errors
/// It cannot be read, or the line is longer than 2048 bytes.
pub(crate) fn line_of_stdin() -> io::Result<Zeroizing<Vec<u8>>> {
    // The standard library's buffer would not be wiped.
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    match read_line(&mut File::from(input)) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Zeroizing::default()),
        read => read,
    }
}

/// Byte by byte, since what follows is not ours; the room never moves, so that no copy is left behind.
fn read_line(from: &mut impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST));
    let mut byte = Zeroizing::new([0]);
    loop {
        match from.read(&mut byte[..]) {
            Ok(0) if line.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(0) => return Ok(line),
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) if line.len() == LONGEST => {
                let text = format!("the password is longer than {LONGEST} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_one_line_and_bounded() {
        let read = |text: &[u8]| read_line(&mut &text[..]).ok().map(|line| line.to_vec());
        assert_eq!(read(b"one\ntwo\n").as_deref(), Some(&b"one"[..]));
        assert_eq!(read(b" a b \r\n").as_deref(), Some(&b" a b "[..]));
        assert_eq!(read(b"no end").as_deref(), Some(&b"no end"[..]));
        assert_eq!(read(b"\n").as_deref(), Some(&b""[..]));
        assert_eq!(read(b""), None);
        assert_eq!(read(&[b'a'; LONGEST + 1]), None);
    }
}
