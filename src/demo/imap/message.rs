//! Looking into a message (RFC 5322, RFC 2045) for IMAP: header fields, parts, ENVELOPE and
//! BODYSTRUCTURE.
//!
//! As much as mail programs ask for, bounded in depth; nothing is decoded.

use super::command::quote;

/// Deepest nesting of parts.
const DEPTH: usize = 8;
/// Most parts of one multipart.
const PARTS: usize = 100;

/// Header, its empty line included, and body.
pub(super) fn split(text: &[u8]) -> (&[u8], &[u8]) {
    if text.starts_with(b"\r\n") {
        return text.split_at(2);
    }
    let end = text.windows(4).position(|window| window == b"\r\n\r\n");
    text.split_at(end.map_or(text.len(), |at| at + 4))
}

/// Header fields as they stand, folded lines included, without the empty line.
fn raw_fields(header: &[u8]) -> Vec<&[u8]> {
    let mut fields = Vec::new();
    let mut start = 0;
    let mut at = 0;
    for line in header.split_inclusive(|&byte| byte == b'\n') {
        let is_folded = line.starts_with(b" ") || line.starts_with(b"\t");
        if at > start && !is_folded {
            fields.push(&header[start..at]);
            start = at;
        }
        at += line.len();
    }
    fields.push(&header[start..]);
    fields.retain(|field| !field.trim_ascii().is_empty());
    fields
}

fn name_of(field: &[u8]) -> &[u8] {
    let name = field.split(|&byte| byte == b':').next();
    name.unwrap_or_default().trim_ascii()
}

/// The value of the first field of this name, unfolded.
pub(super) fn field(header: &[u8], name: &str) -> Option<Vec<u8>> {
    let fields = raw_fields(header);
    let is_named = |field: &&&[u8]| name_of(field).eq_ignore_ascii_case(name.as_bytes());
    let field = fields.iter().find(is_named)?;
    let colon = field.iter().position(|&byte| byte == b':')?;
    let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
    let value = field[colon + 1..].iter().filter(|byte| !is_end(byte));
    let value: Vec<u8> = value.copied().collect();
    Some(value.trim_ascii().to_vec())
}

/// The fields of these names, or all others, and an empty line.
pub(super) fn chosen_fields(header: &[u8], names: &[Vec<u8>], others: bool) -> Vec<u8> {
    let mut chosen = Vec::new();
    for field in raw_fields(header) {
        let named = names
            .iter()
            .any(|name| name_of(field).eq_ignore_ascii_case(name));
        if named != others {
            chosen.extend_from_slice(field);
        }
    }
    chosen.extend_from_slice(b"\r\n");
    chosen
}

/// The part, header and all, to which these numbers lead (RFC 3501, section 6.4.5).
pub(super) fn part<'a>(text: &'a [u8], path: &[u32]) -> Option<&'a [u8]> {
    if path.len() > DEPTH {
        return None;
    }
    let mut part = text;
    for (depth, &number) in path.iter().enumerate() {
        if depth > 0 && is_message(part) {
            part = split(part).1;
        }
        let children = children(part);
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        match children.is_empty() {
            // What has no parts is its own part 1.
            true if at == 0 => {}
            true => return None,
            false => part = children.get(at)?,
        }
    }
    Some(part)
}

/// Whether a part is a message by itself.
pub(super) fn is_message(part: &[u8]) -> bool {
    let kind = ContentType::of(split(part).0);
    kind.kind == "MESSAGE" && kind.subtype == "RFC822"
}

/// The parts of a multipart; nothing for anything else.
fn children(part: &[u8]) -> Vec<&[u8]> {
    let (header, body) = split(part);
    let kind = ContentType::of(header);
    let mut children = Vec::new();
    let Some(boundary) = kind.boundary() else {
        return children;
    };
    let delimiter = [b"--", boundary.as_slice()].concat();
    let mut start = None;
    let mut at = 0;
    for line in body.split_inclusive(|&byte| byte == b'\n') {
        if let Some(rest) = line.strip_prefix(delimiter.as_slice()) {
            let rest = rest.trim_ascii();
            if rest.is_empty() || rest == b"--" {
                // The line end before a delimiter is part of the delimiter.
                let part = start.map(|start| &body[start..at]);
                children.extend(part.map(|part| part.strip_suffix(b"\r\n").unwrap_or(part)));
                start = Some(at + line.len());
                if !rest.is_empty() || children.len() >= PARTS {
                    return children;
                }
            }
        }
        at += line.len();
    }
    children.extend(start.map(|start| &body[start..]));
    children
}

/// A value with parameters, as Content-Type and Content-Disposition have it.
struct Parameters {
    value: Vec<u8>,
    list: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Parameters {
    fn of(field: &[u8]) -> Self {
        let mut pieces = pieces(field, b';').into_iter();
        let value = pieces.next().unwrap_or_default().trim_ascii().to_vec();
        let list = pieces.filter_map(|piece| {
            let equals = piece.iter().position(|&byte| byte == b'=')?;
            let (name, value) = (&piece[..equals], &piece[equals + 1..]);
            Some((name.trim_ascii().to_vec(), unquoted(value.trim_ascii())))
        });
        Self {
            value,
            list: list.collect(),
        }
    }

    /// As a parenthesized list, or NIL.
    fn render(&self) -> Vec<u8> {
        if self.list.is_empty() {
            return b"NIL".to_vec();
        }
        let strings = self.list.iter().flat_map(|(name, value)| [name, value]);
        let strings: Vec<_> = strings.map(|string| quote(string)).collect();
        [b"(", strings.join(&b' ').as_slice(), b")"].concat()
    }
}

/// Splits where `at` stands outside quotation marks, parentheses and angle brackets.
fn pieces(text: &[u8], at: u8) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let (mut start, mut quoted, mut nested, mut escaped) = (0, false, 0_usize, false);
    for (index, &byte) in text.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'(' | b'<' => nested += 1,
            b')' | b'>' => nested = nested.saturating_sub(1),
            byte if byte == at && nested == 0 => {
                pieces.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    pieces.push(&text[start..]);
    pieces
}

/// Without its quotation marks, if it has them.
fn unquoted(text: &[u8]) -> Vec<u8> {
    let inner = text
        .strip_prefix(b"\"")
        .and_then(|text| text.strip_suffix(b"\""));
    let Some(inner) = inner else {
        return text.to_vec();
    };
    let mut plain = Vec::with_capacity(inner.len());
    let mut escaped = false;
    for &byte in inner {
        if byte == b'\\' && !escaped {
            escaped = true;
            continue;
        }
        escaped = false;
        plain.push(byte);
    }
    plain
}

struct ContentType {
    kind: String,
    subtype: String,
    parameters: Parameters,
}

impl ContentType {
    fn of(header: &[u8]) -> Self {
        let field = field(header, "Content-Type");
        let field = field.unwrap_or_else(|| b"text/plain; charset=us-ascii".to_vec());
        let parameters = Parameters::of(&field);
        let value = String::from_utf8_lossy(&parameters.value).to_ascii_uppercase();
        let (kind, subtype) = value.split_once('/').unwrap_or(("TEXT", "PLAIN"));
        Self {
            kind: kind.trim().to_owned(),
            subtype: subtype.trim().to_owned(),
            parameters,
        }
    }

    fn boundary(&self) -> Option<&Vec<u8>> {
        if self.kind != "MULTIPART" {
            return None;
        }
        let mut list = self.parameters.list.iter();
        let found = list.find(|(name, _)| name.eq_ignore_ascii_case(b"boundary"));
        found
            .map(|(_, value)| value)
            .filter(|value| !value.is_empty())
    }
}

/// ENVELOPE (RFC 3501, section 7.4.2).
pub(super) fn envelope(header: &[u8]) -> Vec<u8> {
    let text = |name: &str| nil_or(field(header, name).as_deref());
    let people = |name: &str| field(header, name).map_or(b"NIL".to_vec(), |it| addresses(&it));
    let from = people("From");
    let or_from = |people: Vec<u8>| match people.as_slice() {
        b"NIL" => from.clone(),
        _ => people,
    };
    let items = [
        text("Date"),
        text("Subject"),
        from.clone(),
        or_from(people("Sender")),
        or_from(people("Reply-To")),
        people("To"),
        people("Cc"),
        people("Bcc"),
        text("In-Reply-To"),
        text("Message-ID"),
    ];
    [b"(", items.join(&b' ').as_slice(), b")"].concat()
}

fn nil_or(text: Option<&[u8]>) -> Vec<u8> {
    text.map_or(b"NIL".to_vec(), quote)
}

/// A list of addresses; groups are not taken apart.
fn addresses(field: &[u8]) -> Vec<u8> {
    let addresses = pieces(field, b',').into_iter().map(<[u8]>::trim_ascii);
    let rendered: Vec<_> = addresses
        .filter(|address| !address.is_empty())
        .map(address)
        .collect();
    match rendered.is_empty() {
        true => b"NIL".to_vec(),
        false => [b"(", rendered.concat().as_slice(), b")"].concat(),
    }
}

/// `Name <mailbox@host>`, `mailbox@host (Name)` or `mailbox@host`.
fn address(text: &[u8]) -> Vec<u8> {
    let between = |open: u8, close: u8| {
        let start = text.iter().rposition(|&byte| byte == open)?;
        let end = start + text[start..].iter().position(|&byte| byte == close)?;
        Some((&text[..start], &text[start + 1..end]))
    };
    let (name, mailbox) = match (between(b'<', b'>'), between(b'(', b')')) {
        (Some((name, mailbox)), _) => (unquoted(name.trim_ascii()), mailbox),
        (None, Some((mailbox, name))) => (name.to_vec(), mailbox.trim_ascii()),
        (None, None) => (Vec::new(), text),
    };
    let at = mailbox.iter().rposition(|&byte| byte == b'@');
    let (local, host) = match at {
        Some(at) => (&mailbox[..at], &mailbox[at + 1..]),
        None => (mailbox, &b""[..]),
    };
    let name = nil_or(Some(name.as_slice()).filter(|name| !name.is_empty()));
    let parts = [name, b"NIL".to_vec(), quote(local), quote(host)];
    [b"(", parts.join(&b' ').as_slice(), b")"].concat()
}

/// BODYSTRUCTURE, or BODY when not `extended` (RFC 3501, section 7.4.2).
pub(super) fn structure(text: &[u8], extended: bool) -> Vec<u8> {
    structure_at(text, extended, 0)
}

fn structure_at(text: &[u8], extended: bool, depth: usize) -> Vec<u8> {
    let (header, body) = split(text);
    let mut kind = ContentType::of(header);
    let children = match depth < DEPTH {
        true => children(text),
        false => Vec::new(),
    };
    let mut items = Vec::new();
    if !children.is_empty() {
        let parts = children
            .iter()
            .map(|part| structure_at(part, extended, depth + 1));
        items.push(parts.collect::<Vec<_>>().concat());
        items.push(quote(kind.subtype.as_bytes()));
        if extended {
            items.push(kind.parameters.render());
            items.push(disposition(header));
            items.extend([b"NIL".to_vec(), b"NIL".to_vec()]);
        }
        return [b"(", items.join(&b' ').as_slice(), b")"].concat();
    }
    if kind.kind == "MULTIPART" {
        // It has no parts that could be listed.
        (kind.kind, kind.subtype) = ("TEXT".into(), "PLAIN".into());
    }
    let inner = (depth < DEPTH && is_message(text)).then_some(body);
    if inner.is_none() && kind.kind == "MESSAGE" && kind.subtype == "RFC822" {
        (kind.kind, kind.subtype) = ("APPLICATION".into(), "OCTET-STREAM".into());
    }
    let encoding = field(header, "Content-Transfer-Encoding").unwrap_or_else(|| b"7BIT".to_vec());
    items.extend([
        quote(kind.kind.as_bytes()),
        quote(kind.subtype.as_bytes()),
        kind.parameters.render(),
        nil_or(field(header, "Content-ID").as_deref()),
        nil_or(field(header, "Content-Description").as_deref()),
        quote(&encoding),
        body.len().to_string().into_bytes(),
    ]);
    if let Some(inner) = inner {
        items.push(envelope(split(inner).0));
        items.push(structure_at(inner, extended, depth + 1));
    }
    if kind.kind == "TEXT" || inner.is_some() {
        let lines = body.iter().filter(|&&byte| byte == b'\n').count();
        items.push(lines.to_string().into_bytes());
    }
    if extended {
        let nil = || b"NIL".to_vec();
        items.extend([nil(), disposition(header), nil(), nil()]);
    }
    [b"(", items.join(&b' ').as_slice(), b")"].concat()
}

fn disposition(header: &[u8]) -> Vec<u8> {
    let Some(field) = field(header, "Content-Disposition") else {
        return b"NIL".to_vec();
    };
    let parameters = Parameters::of(&field);
    let items = [quote(&parameters.value), parameters.render()];
    [b"(", items.join(&b' ').as_slice(), b")"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: &[u8] = b"From: Alice \"A\" <alice@a.test>\r\nTo: b@b.test (Bob), \"C, D\" <c@c.test>\r\n\
        Subject: two\r\n parts\r\nContent-Type: multipart/mixed; boundary=\"x;y\"\r\n\r\npreamble\r\n\
        --x;y\r\n\r\none\r\n--x;y\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nbody\r\n\
        --x;y--\r\nepilogue\r\n";

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).expect("ASCII")
    }

    #[test]
    fn header_and_body_are_separated_by_an_empty_line() {
        assert_eq!(split(b"A: b\r\n\r\nc"), (&b"A: b\r\n\r\n"[..], &b"c"[..]));
        assert_eq!(split(b"A: b\r\n"), (&b"A: b\r\n"[..], &b""[..]));
        assert_eq!(split(b"\r\nc"), (&b"\r\n"[..], &b"c"[..]));
        assert_eq!(split(b""), (&b""[..], &b""[..]));
    }

    #[test]
    fn fields_are_found_in_any_case_and_unfolded() {
        let (header, _) = split(MIXED);
        assert_eq!(field(header, "SUBJECT").as_deref(), Some(&b"two parts"[..]));
        assert_eq!(field(header, "Cc"), None);
        let chosen = chosen_fields(header, &[b"subject".to_vec()], false);
        assert_eq!(chosen, b"Subject: two\r\n parts\r\n\r\n");
        let others = chosen_fields(b"A: b\r\nC: d\r\n\r\n", &[b"a".to_vec()], true);
        assert_eq!(others, b"C: d\r\n\r\n");
    }

    #[test]
    fn parts_are_found_by_their_numbers() {
        let body = |path: &[u32]| part(MIXED, path).map(|part| split(part).1);
        assert_eq!(body(&[1]), Some(&b"one"[..]));
        assert_eq!(body(&[2]), Some(&b"Subject: inner\r\n\r\nbody"[..]));
        assert_eq!(body(&[2, 1]), Some(&b"body"[..]));
        for missing in [&[3][..], &[0], &[1, 2], &[2, 2], &[1; 9]] {
            assert_eq!(body(missing), None, "{missing:?}");
        }
    }

    #[test]
    fn the_structure_lists_the_parts() {
        assert_eq!(
            text(structure(MIXED, false)),
            "((\"TEXT\" \"PLAIN\" (\"charset\" \"us-ascii\") NIL NIL \"7BIT\" 3 0)(\"MESSAGE\" \"RFC822\" \
             NIL NIL NIL \"7BIT\" 22 (NIL \"inner\" NIL NIL NIL NIL NIL NIL NIL NIL) (\"TEXT\" \"PLAIN\" \
             (\"charset\" \"us-ascii\") NIL NIL \"7BIT\" 4 0) 2) \"MIXED\")"
        );
    }

    #[test]
    fn an_envelope_has_names_and_addresses() {
        assert_eq!(
            text(envelope(split(MIXED).0)),
            "(NIL \"two parts\" ((\"Alice \\\"A\\\"\" NIL \"alice\" \"a.test\")) ((\"Alice \\\"A\\\"\" NIL \
             \"alice\" \"a.test\")) ((\"Alice \\\"A\\\"\" NIL \"alice\" \"a.test\")) ((\"Bob\" NIL \"b\" \
             \"b.test\")(\"C, D\" NIL \"c\" \"c.test\")) NIL NIL NIL NIL)"
        );
    }

    #[test]
    fn broken_messages_have_a_structure_too() {
        let deep: Vec<u8> = b"Content-Type: message/rfc822\r\n\r\n".repeat(1000);
        let wide = [
            &b"Content-Type: multipart/mixed; boundary=x\r\n\r\n"[..],
            &b"--x\r\n".repeat(1000),
        ]
        .concat();
        for broken in [
            &deep[..],
            &wide,
            b"",
            b"Content-Type: multipart/mixed\r\n\r\n",
            b"Content-Type: multipart/mixed; boundary=\"\r\n\r\n--\"\r\n",
            b"From: <<<>>>, ((,\"\\\r\nContent-Type: ;;=;/\r\n",
            b":\r\n:::\r\n\n\n",
        ] {
            assert!(structure(broken, true).starts_with(b"("));
            assert!(envelope(split(broken).0).starts_with(b"("));
        }
    }
}
