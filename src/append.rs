//! Numbers and addresses at the end of a text, without the machinery of `format!`: every login takes some
//! dozens of them, and that was most of what its lines in the log cost.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

/// A number in decimal digits.
pub(crate) fn number(out: &mut String, number: impl itoa::Integer) {
    out.push_str(itoa::Buffer::new().format(number));
}

/// The last `N` digits of a number, zeros included.
pub(crate) fn last_digits<const N: usize>(out: &mut String, number: u32) {
    let mut rest = number;
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
    digits.iter().for_each(|&digit| out.push(char::from(digit)));
}

/// An address, as the standard library writes it.
pub(crate) fn ip(out: &mut String, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => {
            for (at, part) in ip.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push('.');
                }
                number(out, part);
            }
        }
        IpAddr::V6(ip) => {
            // Writing to a String cannot fail.
            let _ = write!(out, "{ip}");
        }
    }
}

/// `ADDR:PORT`, as the standard library writes it.
pub(crate) fn socket_address(out: &mut String, address: SocketAddr) {
    match address {
        SocketAddr::V4(_) => {
            ip(out, address.ip());
            out.push(':');
            number(out, address.port());
        }
        SocketAddr::V6(address) => {
            // Writing to a String cannot fail.
            let _ = write!(out, "{address}");
        }
    }
}

/// The same as a text of its own.
pub(crate) fn socket_address_text(address: SocketAddr) -> String {
    let mut text = String::with_capacity("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".len());
    socket_address(&mut text, address);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_look_as_the_standard_library_writes_them() {
        for text in [
            "192.0.2.1:25",
            "0.0.0.0:0",
            "255.255.255.255:65535",
            "[2001:db8::1]:993",
            "[fe80::1%7]:1",
        ] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(socket_address_text(address), text);
            let mut out = "> ".to_owned();
            ip(&mut out, address.ip());
            assert_eq!(out, format!("> {}", address.ip()));
        }
    }

    #[test]
    fn numbers_have_their_leading_zeros() {
        for (value, text) in [(0, "000"), (7, "007"), (42, "042"), (1234, "234")] {
            let mut out = String::new();
            last_digits::<3>(&mut out, value);
            assert_eq!(out, text);
        }
    }
}
