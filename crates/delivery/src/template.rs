//! Small templates that combine several declared objects into one file: a pgpass line, a settings snippet.
//!
//! The language is the core of Jinja: text, `{{ … }}`, `{% if %}`, `{% elif %}`, `{% else %}`, `{% for x in […] %}` and
//! `{# comments #}`. A block tag takes its line's leading blanks and line end with it. There are no files, includes,
//! macros, assignments, arithmetic or comparisons: with the limits on instructions, bytes handled and output, a hostile
//! template costs little.
//!
//! | Function | Gives |
//! | --- | --- |
//! | `secret("name")` | the value of that entry; it must be UTF-8 |
//! | `has("name")` | whether it has a value: for optional objects |
//! | `equal(a, b)` | whether both texts are the same |
//! | `concat(a, b, …)` | the texts one after the other, to put through a filter |
//!
//! | Filter | Gives |
//! | --- | --- |
//! | `json_key("/a/b")` | one member of a JSON or YAML value, by JSON Pointer |
//! | `json` | a JSON string in quotes, which is a Python string too |
//! | `pgpass` | a field of a pgpass file: `:` and `\` escaped |
//! | `conninfo` | a value of a libpq connection string or service file, in single quotes |
//! | `userlist` | a field of PgBouncer's `userlist.txt`, in double quotes |
//! | `dotenv` | a value of a `.env` file, in quotes |
//! | `ini` | a value in double quotes, `\` and `"` escaped, as MySQL and PHP read it |
//! | `urlencode` | percent-encoded, so that it may stand anywhere in a URL |
//! | `b64encode`, `b64decode` | standard base64 |
//!
//! ```text
//! db.example:5432:*:{{ secret("db") | json_key("/user") | pgpass }}:{{ secret("db") | json_key("/password") | pgpass }}
//! ```

mod check;
mod filters;
mod text;

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use keyward_core::document::Mistakes;
use keyward_core::spec::{ObjectSpec, Source};
use keyward_core::{Code, Error, Result, SecretBytes};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, UndefinedBehavior};
use zeroize::Zeroizing;

use crate::content::wiped;
use crate::conversions::check_here;
use text::Session;

/// What templates may read: the value of each entry by name, or why there is none.
pub type Inputs = HashMap<String, Result<SecretBytes>>;

/// Largest output, in bytes.
pub const MAX_OUTPUT: usize = 1 << 20;
/// The most bytes that one rendering holds at a time: its output, which grows and is then copied to locked memory, and
/// everything that functions and filters handle.
pub(crate) const BOUND: usize = 2 * MAX_OUTPUT + text::MAX_HANDLED;
/// Most instructions of one rendering.
const FUEL: u64 = 50_000;

/// What became of a template.
pub struct Rendered {
    /// The text, or why there is none.
    pub output: Result<SecretBytes>,
    /// The entries that it asked for and that have no value.
    pub missing: Vec<String>,
    /// Whether it stopped because it reached the bytes that it was given.
    pub(crate) stopped: bool,
}

/// Checks the templates of a declaration without rendering them, so that a mistake shows before anything starts.
///
/// # Errors
/// `KW_CONFIG_INVALID` with every template that is wrong, by its name, and the line.
pub fn check_templates(specs: &[ObjectSpec]) -> Result<()> {
    let mistakes = Mistakes::default();
    for spec in specs {
        if let Source::Template(text) = &spec.source
            && let Err(error) = parse_template(text)
        {
            mistakes.note(format!("{}.template", spec.name), error.message());
        }
    }
    mistakes.into_result(Code::ConfigInvalid)
}

/// Checks a template without rendering it.
///
/// # Errors
/// `KW_TEMPLATE_FAILED` with the line, for what the language above does not have.
pub fn parse_template(template: &str) -> Result<()> {
    check::check(template)?;
    let environment = environment(&Arc::new(Session::default()));
    environment.template_from_str(template).map(drop).map_err(|error| failed(&error))
}

/// Renders one template over the values in `inputs`.
///
/// Nothing of it is kept: values and intermediate texts are held in locked memory and wiped.
#[must_use]
pub fn render(template: &str, inputs: &Inputs) -> Rendered {
    render_within(template, inputs, BOUND)
}

/// As [`render`], with at most `most` bytes, where it stops.
pub(crate) fn render_within(template: &str, inputs: &Inputs, most: usize) -> Rendered {
    let session = Arc::new(Session::new(inputs, most));
    let output = check::check(template).and_then(|()| {
        let environment = environment(&session);
        let mut output = Bounded { bytes: Zeroizing::new(Vec::new()), session: &session };
        environment
            .template_from_str(template)
            .and_then(|template| template.render_captured_to((), &mut output).map(drop))
            .map_err(|error| session.complaint().map_or_else(|| failed(&error), |it| at_line(&it, &error)))?;
        Ok(SecretBytes::copy_from(&output.bytes))
    });
    Rendered { output, missing: session.missing(), stopped: session.stopped() }
}

#[expect(clippy::expect_used, reason = "the delimiters are the default ones")]
fn environment<'a>(session: &Arc<Session>) -> Environment<'a> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(64);
    environment.set_syntax(
        SyntaxConfig::builder()
            .keep_trailing_newline(true)
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .expect("the delimiters are the default ones"),
    );
    filters::add(&mut environment, session);
    environment
}

/// The engine's own words may quote what a template computed, so only the kind of error and its line are passed on.
fn failed(error: &minijinja::Error) -> Error {
    use minijinja::ErrorKind;
    let what = match error.kind() {
        ErrorKind::SyntaxError => "cannot be read",
        ErrorKind::UnknownFilter => "uses a filter that does not exist",
        ErrorKind::UnknownFunction | ErrorKind::UnknownMethod => "calls a function that does not exist",
        ErrorKind::UndefinedError => "uses a name that does not exist; a value is secret(\"name\")",
        ErrorKind::OutOfFuel => "takes too many steps",
        ErrorKind::WriteFailure => "gives more than 1 MiB",
        ErrorKind::MissingArgument | ErrorKind::TooManyArguments => {
            "calls a function with the wrong arguments"
        }
        _ => "fails",
    };
    at_line(what, error)
}

fn at_line(what: &str, error: &minijinja::Error) -> Error {
    let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    Error::new(Code::TemplateFailed, format!("the template {what}{line}"))
}

/// A wiped buffer that refuses to grow beyond the limits.
struct Bounded<'a> {
    bytes: Zeroizing<Vec<u8>>,
    session: &'a Session,
}

impl io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        check_here().map_err(io::Error::other)?;
        // Twice: what was written is copied at the end.
        if self.bytes.len().saturating_add(bytes.len()) > MAX_OUTPUT
            || !self.session.hold(bytes.len().saturating_mul(2))
        {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        wiped::append(&mut self.bytes, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
