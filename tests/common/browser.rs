//! A page in headless Chromium: opened, measured, clicked, photographed. The steps are in `browser.py`.

use serde_json::{Value, json};

use super::temp::TempDir;
use super::tools::python;

/// What came of the steps.
#[derive(Debug)]
pub(crate) struct Seen {
    /// The results of those that have one, in their order.
    pub(crate) results: Vec<Value>,
    /// What the console said, and what dialogs asked.
    pub(crate) console: Vec<String>,
}

/// Takes these steps in a new browser.
pub(crate) fn browse(steps: &Value) -> Seen {
    let profile = TempDir::new("browser");
    let folder = profile.path().display().to_string();
    let said = python(include_str!("browser.py"), &[&folder, &steps.to_string()]).text();
    let mut said: Value = serde_json::from_str(&said).expect("it prints JSON");
    let list = |value: Value| serde_json::from_value(value).expect("a list");
    Seen {
        results: list(said["results"].take()),
        console: serde_json::from_value(said["console"].take()).unwrap_or_default(),
    }
}

/// A step, as `browser.py` names them.
pub(crate) fn step(name: &str, value: impl Into<Value>) -> Value {
    json!({ name: value.into() })
}
