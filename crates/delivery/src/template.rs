//! Small templates that combine several declared objects into one file.

use std::collections::HashMap;

use keyward_core::{Code, Error, Result, SecretBytes};

/// What templates may read: the value of each entry by name, or why there is none.
pub type Inputs = HashMap<String, Result<SecretBytes>>;

/// What became of a template.
pub struct Rendered {
    /// The text, or why there is none.
    pub output: Result<SecretBytes>,
    /// The entries that it asked for and that have no value.
    pub missing: Vec<String>,
}

/// Renders one template.
#[must_use]
pub fn render(_template: &str, _inputs: &Inputs) -> Rendered {
    Rendered {
        output: Err(Error::new(Code::TemplateFailed, "templates are not available")),
        missing: Vec::new(),
    }
}
