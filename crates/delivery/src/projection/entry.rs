use std::sync::Arc;

use keyward_core::spec::{Format, ObjectSource, ObjectSpec, OnRevoke, Source};
use keyward_core::{Code, Error, ErrorKind, Fetched, Result, SecretBytes, Snapshot, State, Version};
use zeroize::Zeroizing;

use crate::content::{self, Converted};
use crate::conversions::Turn;
use crate::meter::Meter;
use crate::template::{self, Inputs};

/// What became of one entry.
pub(super) struct Outcome {
    pub(super) value: Result<Converted>,
    pub(super) version: Option<Version>,
    pub(super) error: Option<Error>,
    pub(super) advice: Option<&'static str>,
    pub(super) removed: bool,
    pub(super) memory: Memory,
}

/// What an entry remembers for the next projection.
#[derive(Clone)]
pub(super) struct Memory {
    source: Source,
    /// What was converted last, and how that went: a hostile key store is not derived again on every change of another.
    tried: Option<Tried>,
    good: Option<(Converted, Option<Version>)>,
}

impl Memory {
    pub(super) fn is_of(&self, source: &Source) -> bool {
        self.source == *source
    }
}

#[derive(Clone)]
struct Tried {
    fetched: Arc<Fetched>,
    password: Option<SecretBytes>,
    failure: Option<Error>,
}

impl Tried {
    fn is_of(&self, fetched: &Arc<Fetched>, password: Option<&SecretBytes>) -> bool {
        let same_password = match (&self.password, password) {
            (None, None) => true,
            (Some(a), Some(b)) => a.same_as(b),
            _ => false,
        };
        // A new version with the old value is no reason to write a key store anew.
        same_password
            && (Arc::ptr_eq(&self.fetched, fetched) || self.fetched.content.same_as(&fetched.content))
    }
}

/// Projects one object. `inputs` holds the entries that may give its password. `None` where that takes a conversion and
/// there is no turn for it.
pub(super) fn object(
    turn: Option<&Turn>,
    spec: &ObjectSpec,
    source: &ObjectSource,
    snapshot: Option<&Snapshot>,
    inputs: &Inputs,
    earlier: Option<&Memory>,
) -> Option<Outcome> {
    let earlier = earlier.filter(|earlier| earlier.source == spec.source);
    let error = snapshot.and_then(|snapshot| snapshot.error.clone());
    if let (Some(snapshot), Some(error)) = (snapshot, &error)
        && removes(spec, snapshot, error)
    {
        return Some(left_out(spec, error.clone()));
    }
    let Some(fetched) = snapshot.and_then(|snapshot| snapshot.fetched.as_ref()) else {
        let error = error.unwrap_or_else(|| not_read(source));
        return Some(kept(spec, error, earlier.and_then(|earlier| earlier.tried.clone()), earlier));
    };
    let password = match source.password_from.as_deref().map(|name| (name, inputs.get(name))) {
        None => None,
        Some((_, Some(Ok(password)))) => Some(password),
        Some((name, _)) => {
            let error = Error::new(Code::ContentInvalid, format!("the password in {name} is not available"))
                .object(&source.object);
            return Some(kept(spec, error, earlier.and_then(|earlier| earlier.tried.clone()), earlier));
        }
    };
    let known = earlier.and_then(|earlier| {
        let tried = earlier.tried.as_ref().filter(|tried| tried.is_of(fetched, password))?;
        match &tried.failure {
            Some(failure) => Some(Err(failure.clone())),
            None => earlier.good.as_ref().map(|(converted, _)| Ok(converted.clone())),
        }
    });
    let converted = match known.or_else(|| content::as_it_is(source, fetched)) {
        Some(converted) => converted,
        None => content::convert(turn?, source, fetched, password),
    };
    if let Err(error) = &converted
        && turn.is_some_and(|turn| turn.stopped().is_some())
    {
        // It says nothing of the content, which the next pass tries again.
        return Some(kept(spec, error.clone(), earlier.and_then(|earlier| earlier.tried.clone()), earlier));
    }
    let tried = Tried {
        fetched: Arc::clone(fetched),
        password: password.cloned(),
        failure: converted.as_ref().err().cloned(),
    };
    Some(match converted {
        Ok(converted) => Outcome {
            value: Ok(converted.clone()),
            version: Some(fetched.version.clone()),
            error: None,
            advice: content::advice(source, fetched),
            removed: false,
            memory: Memory {
                source: spec.source.clone(),
                tried: Some(tried),
                good: Some((converted, Some(fetched.version.clone()))),
            },
        },
        Err(error) => kept(spec, error, Some(tried), earlier),
    })
}

/// Projects one template. `removed` names the entries that were left out on purpose.
///
/// # Errors
/// `KW_NO_SPACE` when there is no room for what it makes.
pub(super) fn template(
    turn: &Turn,
    spec: &ObjectSpec,
    text: &str,
    inputs: &Inputs,
    removed: &[String],
    earlier: Option<&Memory>,
    meter: &mut Meter,
) -> Result<Outcome> {
    if let Err(error) = turn.check() {
        return Ok(kept(spec, error, None, earlier.filter(|earlier| earlier.source == spec.source)));
    }
    let most = meter.begin(0, template::BOUND)?;
    let mut rendered = template::render_within(text, inputs, most);
    if rendered.stopped {
        // Refused by its name, unless others have given back meanwhile.
        let most = meter.begin(template::BOUND, template::BOUND)?;
        rendered = template::render_within(text, inputs, most);
    }
    if let Some(error) = turn.stopped() {
        // It says nothing of the template, which the next pass renders again.
        return Ok(kept(spec, error, None, earlier.filter(|earlier| earlier.source == spec.source)));
    }
    Ok(match rendered.output {
        Ok(value) => {
            let converted = Converted { value, pair: None };
            Outcome {
                value: Ok(converted.clone()),
                version: None,
                error: None,
                advice: None,
                removed: false,
                memory: Memory { source: spec.source.clone(), tried: None, good: Some((converted, None)) },
            }
        }
        Err(error) => {
            if spec.on_revoke == OnRevoke::Remove
                && rendered.missing.iter().any(|name| removed.contains(name))
            {
                return Ok(left_out(spec, error));
            }
            kept(spec, error, None, earlier.filter(|earlier| earlier.source == spec.source))
        }
    })
}

/// Bytes that the files of an entry hold together.
pub(super) fn payload(spec: &ObjectSpec, converted: &Converted) -> usize {
    if spec.files().is_empty() {
        return 0;
    }
    match &converted.pair {
        Some((certificates, key)) => certificates.len().saturating_add(key.len()),
        None => converted.value.len().saturating_add(lacks_newline(spec, &converted.value).into()),
    }
}

/// Bytes of the copies that [`with_newline`] makes: for readers of the API, and for the file.
pub(super) fn newline(spec: &ObjectSpec, converted: &Converted) -> usize {
    if lacks_newline(spec, &converted.value) {
        converted.value.len().saturating_add(1).saturating_mul(2)
    } else {
        0
    }
}

/// What goes into each path of `spec.files()`, in that order.
pub(super) fn contents(spec: &ObjectSpec, converted: &Converted) -> Vec<SecretBytes> {
    match &converted.pair {
        Some((certificates, key)) => vec![certificates.clone(), key.clone()],
        None => vec![with_newline(spec, &converted.value)],
    }
}

/// Whether the final newline is to be added that `newline: true` asks for; binary formats are never touched.
pub(super) fn lacks_newline(spec: &ObjectSpec, value: &SecretBytes) -> bool {
    let binary = matches!(
        &spec.source,
        Source::Object(source) if matches!(source.format, Format::Der | Format::Pfx | Format::Jks | Format::JksTrust)
    );
    spec.newline && !binary && !value.expose().ends_with(b"\n")
}

/// Adds the final newline that `newline: true` asks for.
pub fn with_newline(spec: &ObjectSpec, value: &SecretBytes) -> SecretBytes {
    if !lacks_newline(spec, value) {
        return value.clone();
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(value.len().saturating_add(1)));
    bytes.extend_from_slice(value.expose());
    bytes.push(b'\n');
    SecretBytes::copy_from(&bytes)
}

/// Promise 3: only disabled and deleted objects, only after the no held, and never for forbidden.
fn removes(spec: &ObjectSpec, snapshot: &Snapshot, error: &Error) -> bool {
    spec.on_revoke == OnRevoke::Remove
        && snapshot.state == State::Revoked
        && matches!(error.kind(), ErrorKind::Disabled | ErrorKind::NotFound)
}

fn left_out(spec: &ObjectSpec, error: Error) -> Outcome {
    Outcome {
        value: Err(error.clone()),
        version: None,
        error: Some(error),
        advice: None,
        removed: true,
        memory: Memory { source: spec.source.clone(), tried: None, good: None },
    }
}

/// The last good conversion, or `error` when there is none.
fn kept(spec: &ObjectSpec, error: Error, tried: Option<Tried>, earlier: Option<&Memory>) -> Outcome {
    let good = earlier.and_then(|earlier| earlier.good.clone());
    Outcome {
        value: good.as_ref().map(|(converted, _)| converted.clone()).ok_or_else(|| error.clone()),
        version: good.as_ref().and_then(|(_, version)| version.clone()),
        error: Some(error),
        advice: None,
        removed: false,
        memory: Memory { source: spec.source.clone(), tried, good },
    }
}

fn not_read(source: &ObjectSource) -> Error {
    Error::new(Code::VaultUnavailable, "the object has not been read yet").object(&source.object)
}
