use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use keyward_core::{Result, SecretBytes};
use minijinja::value::{Object, ObjectRepr};
use minijinja::{Error, ErrorKind, Value};
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::MAX_OUTPUT;

/// Most bytes that all functions and filters of one rendering may handle together.
pub(super) const MAX_HANDLED: usize = 16 << 20;

/// A secret text as the engine sees it: it can be written out and put through filters, nothing else.
pub(super) struct Text(SecretBytes);

impl Text {
    fn as_str(&self) -> &str {
        self.0.expose_str().unwrap_or_default()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl Object for Text {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        !self.0.is_empty()
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One rendering: what it may read, and what went wrong in our own words.
#[derive(Default)]
pub(super) struct Session {
    inputs: HashMap<String, Result<SecretBytes>>,
    /// Bytes that it may hold, its output included.
    most: usize,
    notes: Mutex<Notes>,
}

#[derive(Default)]
struct Notes {
    missing: Vec<String>,
    complaint: Option<String>,
    handled: usize,
    held: usize,
    stopped: bool,
}

impl Session {
    pub(super) fn new(inputs: &HashMap<String, Result<SecretBytes>>, most: usize) -> Self {
        Self { inputs: inputs.clone(), most, notes: Mutex::default() }
    }

    /// Counts bytes that are about to be held, and says whether they may be.
    pub(super) fn hold(&self, bytes: usize) -> bool {
        let mut notes = self.notes.lock();
        notes.held = notes.held.saturating_add(bytes);
        notes.stopped |= notes.held > self.most;
        !notes.stopped
    }

    /// Whether it stopped because it reached the bytes that it was given.
    pub(super) fn stopped(&self) -> bool {
        self.notes.lock().stopped
    }

    pub(super) fn missing(&self) -> Vec<String> {
        self.notes.lock().missing.clone()
    }

    pub(super) fn complaint(&self) -> Option<String> {
        self.notes.lock().complaint.clone()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        matches!(self.inputs.get(name), Some(Ok(_)))
    }

    /// The value of an entry, as a text.
    pub(super) fn secret(&self, name: &str) -> std::result::Result<Value, Error> {
        match self.inputs.get(name) {
            Some(Ok(value)) => self.text(value.clone(), "asks for a value that is not UTF-8"),
            Some(Err(error)) => {
                self.notes.lock().missing.push(name.to_owned());
                Err(self.complain(&format!("needs {name}, which has no value ({})", error.code().as_str())))
            }
            None => {
                let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
                Err(self.complain(&format!(
                    "needs {shown}, which is not declared, or is a template that is declared later"
                )))
            }
        }
    }

    /// What a filter made.
    pub(super) fn made(&self, bytes: &Zeroizing<Vec<u8>>) -> std::result::Result<Value, Error> {
        self.text(SecretBytes::copy_from(bytes), "decodes to what is not UTF-8")
    }

    pub(super) fn text(&self, value: SecretBytes, otherwise: &str) -> std::result::Result<Value, Error> {
        if value.len() > MAX_OUTPUT {
            return Err(self.complain("makes a text of more than 1 MiB"));
        }
        let mut notes = self.notes.lock();
        notes.handled = notes.handled.saturating_add(value.len());
        let too_much = notes.handled > MAX_HANDLED;
        drop(notes);
        if too_much || !self.hold(value.len()) {
            return Err(self.complain("handles too many bytes"));
        }
        if value.expose_str().is_none() {
            return Err(self.complain(otherwise));
        }
        Ok(Value::from_object(Text(value)))
    }

    /// Lets `work` see the text of an argument.
    pub(super) fn with_text<T>(
        &self,
        value: &Value,
        work: impl FnOnce(&str) -> std::result::Result<T, Error>,
    ) -> std::result::Result<T, Error> {
        if let Some(text) = value.downcast_object_ref::<Text>() {
            work(text.as_str())
        } else if let Some(text) = value.as_str() {
            work(text)
        } else if let Some(number) = value.as_i64() {
            work(&number.to_string())
        } else {
            Err(self.complain("puts something other than a text through a filter or function"))
        }
    }

    /// Notes what went wrong, to be told instead of the engine's words; ends the rendering.
    pub(super) fn complain(&self, what: &str) -> Error {
        self.notes.lock().complaint.get_or_insert_with(|| what.to_owned());
        Error::from(ErrorKind::InvalidOperation)
    }
}
