//! Reads a dialogue file. Nothing is sent here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A dialogue as its file tells it.
#[derive(Default, Clone)]
pub(crate) struct Script {
    /// Lines for the `[server]` section.
    pub(crate) config: Vec<String>,
    /// Answers of the auth server in turn.
    pub(crate) auth: Vec<Vec<String>>,
    /// The ways it is played; empty is all.
    pub(crate) ways: Vec<String>,
    /// What happens, in order.
    pub(crate) steps: Vec<Step>,
    /// Lines the backend must have got.
    pub(crate) backend: Vec<String>,
    /// Whether nobody may have connected to the backend.
    pub(crate) backend_unused: bool,
    /// Header lines that requests to the auth server must have had.
    pub(crate) requests: Vec<(usize, String)>,
    /// How many requests there must have been.
    pub(crate) request_count: Option<usize>,
}

/// One step.
#[derive(Clone)]
pub(crate) enum Step {
    /// The client sends these bytes.
    Send(Vec<u8>),
    /// The client ends its sending direction.
    End,
    /// The proxy says this line.
    Expect(String),
    /// The proxy closes.
    Close,
    /// The client waits.
    Sync,
}

impl Script {
    /// # Errors
    /// The first line that is not understood.
    pub(crate) fn parse(text: &str) -> Result<Script, String> {
        let mut script = Script::default();
        for (number, line) in text.lines().enumerate() {
            if !line.is_empty() && !line.starts_with('#') {
                script
                    .add(line)
                    .map_err(|why| format!("line {}: {why}", number + 1))?;
            }
        }
        Ok(script)
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        let (word, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match word {
            "config" => self.config.push(value.to_owned()),
            "auth" => {
                let headers = value.split(" | ").map(str::to_owned).collect();
                self.auth.push(headers);
            }
            "ways" => self.ways = value.split(' ').map(str::to_owned).collect(),
            "C" => {
                let mut bytes = expand(value)?;
                bytes.extend_from_slice(b"\r\n");
                self.steps.push(Step::Send(bytes));
            }
            "C-raw" => self.steps.push(Step::Send(unescape(value)?)),
            "C-end" => self.steps.push(Step::End),
            "S" => {
                let text = String::from_utf8(expand(value)?);
                let text = text.map_err(|_| "S: is not UTF-8".to_owned())?;
                self.steps.push(Step::Expect(text));
            }
            "S-close" => self.steps.push(Step::Close),
            "sync" => self.steps.push(Step::Sync),
            "B" => self.backend.push(value.to_owned()),
            "B-none" => self.backend_unused = true,
            "requests" => self.request_count = Some(number(value)?),
            _ => match word.strip_prefix("request ") {
                Some(which) => self.requests.push((number(which)?, value.to_owned())),
                None => return Err(format!("`{word}` is no word of a dialogue")),
            },
        }
        Ok(())
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("`{text}` is no number"))
}

/// Fills `<base64:…>` and `<repeat:…>`.
fn expand(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(start) = ["<base64:", "<repeat:"]
        .iter()
        .filter_map(|name| rest.find(name))
        .min()
    {
        let end = rest[start..].find('>').ok_or("a placeholder has no end")? + start;
        bytes.extend_from_slice(&rest.as_bytes()[..start]);
        let (name, value) = rest[start + 1..end]
            .split_once(':')
            .ok_or("a placeholder has no value")?;
        if name == "base64" {
            bytes.extend(STANDARD.encode(unescape(value)?).into_bytes());
        } else {
            let (text, times) = value.rsplit_once(':').ok_or("repeat what how often?")?;
            bytes.extend(text.repeat(number(times)?).into_bytes());
        }
        rest = &rest[end + 1..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next() {
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'0') => 0,
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let digits = String::from_utf8_lossy(&digits).into_owned();
                u8::from_str_radix(&digits, 16).map_err(|_| "\\x needs two hex digits")?
            }
            _ => return Err("an unknown escape".to_owned()),
        });
    }
    Ok(bytes)
}
