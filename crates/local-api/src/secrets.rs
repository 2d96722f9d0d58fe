use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use keyward_core::audit::{Act, Action, AuditEvent};
use keyward_core::observe::{Event, Lookup};
use keyward_core::trace::TraceContext;
use keyward_core::{Code, Error, SecretBytes, Served, State};
use keyward_proto::secrets::v1::{
    BatchGetSecretsRequest, GetSecretRequest, ListSecretsRequest, RefreshSecretRequest,
};
use parking_lot::Mutex;
use tonic::Status;

use crate::answer::answer;
use crate::connection::{Connection, Request, context, too_often};
use crate::convert;
use crate::method::Method;
use crate::rate::Rate;
use crate::reply::{self, Entry, Reply};
use crate::status::status;
use crate::wire::{self, Body};

/// Number of the field that holds the secret, in every response.
const SECRET: u32 = 1;
/// Number of the field that holds the names that cannot be given, in the response to a batch.
const FAILURES: u32 = 2;

/// `GetSecret`: the way that nearly every call takes.
pub(crate) async fn get(connection: &Arc<Connection>, request: Request) -> Result<Response<Body>, Status> {
    let trace = context(&request);
    let request: GetSecretRequest =
        wire::receive(request.into_body(), connection.shared.settings.max_message, |size| {
            connection.owe(size)
        })
        .await?;
    connection.spend(1)?;
    let mut served = connection.shared.view.get(&request.name);
    if served.as_deref().is_some_and(untried) {
        served = Box::pin(first_read(connection, &request.name)).await;
    }
    let in_place = served.as_deref().is_some_and(|served| {
        request.version.is_empty()
            || served
                .version
                .as_ref()
                .is_some_and(|version| version.as_str().eq_ignore_ascii_case(&request.version))
    });
    match served {
        Some(served) if in_place => {
            let value = connection.read(&served, trace).map_err(|error| status(&error))?;
            connection.give(&served, value, true)
        }
        Some(_) => {
            let served = Box::pin(version(connection, &request)).await?;
            let value = connection.hand_over(&served, Lookup::Miss, trace).map_err(|error| status(&error))?;
            connection.give(&served, value, false)
        }
        None => Err(status(&connection.unknown_name(trace))),
    }
}

/// Whether the first read of an object is still on its way: nobody has said yes or no.
fn untried(served: &Served) -> bool {
    served.state == State::Pending && served.error.is_none()
}

/// Waits for the first read that is on its way already, so that a caller at start-up needs no loop of its own; however
/// many wait, it stays one read. The call's own deadline bounds the wait.
async fn first_read(connection: &Connection, name: &str) -> Option<Arc<Served>> {
    let view = &connection.shared.view;
    loop {
        let seen = view.generation();
        let served = view.get(name)?;
        if !untried(&served) {
            return Some(served);
        }
        view.changed(seen).await;
    }
}

/// The other methods that answer with one message.
pub(crate) async fn rarer(
    connection: &Arc<Connection>,
    method: Method,
    request: Request,
) -> Result<Response<Body>, Status> {
    let limit = connection.shared.settings.max_message;
    let trace = context(&request);
    let body = request.into_body();
    let owe = |size| connection.owe(size);
    match method {
        Method::Batch => {
            let request = wire::receive(body, limit, owe).await?;
            batch(connection, &request, trace)
        }
        Method::List => {
            let request: ListSecretsRequest = wire::receive(body, limit, owe).await?;
            connection.spend(1)?;
            let all = connection.shared.view.list();
            let named = all.into_iter().filter(|served| served.name.starts_with(&request.prefix));
            connection.reply(named.map(|served| Entry::metadata(SECRET, served)).collect())
        }
        _ => {
            let request = wire::receive(body, limit, owe).await?;
            refresh(connection, &request, trace).await
        }
    }
}

fn batch(
    connection: &Arc<Connection>,
    request: &BatchGetSecretsRequest,
    trace: Option<TraceContext>,
) -> Result<Response<Body>, Status> {
    let settings = &connection.shared.settings;
    if request.names.is_empty() || request.names.len() > settings.max_batch {
        let message = format!("a batch has 1 to {} names", settings.max_batch);
        return Err(status(&Error::new(Code::RequestInvalid, message)));
    }
    connection.spend(u32::try_from(request.names.len()).unwrap_or(u32::MAX))?;
    // Charged before anything is read for it: refused later, the log would tell of values that were not given.
    let made = connection
        .owe(request.names.len().saturating_mul(size_of::<Entry>()))
        .map_err(|error| status(&error))?;
    let (mut secrets, mut failures) = (Vec::with_capacity(request.names.len()), Vec::new());
    let mut seen = HashSet::with_capacity(request.names.len());
    let mut room = settings.max_batch_bytes;
    for name in request.names.iter().filter(|name| seen.insert(name.as_str())) {
        let Some(served) = connection.shared.view.get(name) else {
            let failure = convert::failure(name, &connection.unknown_name(trace), 0);
            failures.push(Entry::failure(FAILURES, failure));
            continue;
        };
        let length = served.value.as_ref().map_or(0, SecretBytes::len);
        let held = match &served.value {
            Ok(_) if length > room => Err(no_room()),
            Ok(value) => connection.shared.values.hold(name, value, true).map(Some),
            Err(_) => Ok(None),
        };
        let given = held.and_then(|held| connection.read(&served, trace).map(|_| held));
        match given {
            Ok(Some(held)) => {
                room = room.saturating_sub(length);
                secrets.push(Entry::secret(SECRET, Arc::clone(&served), held));
            }
            // A value that is given was there to be held.
            Ok(None) => {}
            Err(error) => {
                let failure = convert::failure(name, &error, served.sequence);
                failures.push(Entry::failure(FAILURES, failure));
            }
        }
    }
    drop(made);
    secrets.append(&mut failures);
    connection.reply(secrets)
}

/// A version other than the one in place.
async fn version(connection: &Connection, request: &GetSecretRequest) -> Result<Arc<Served>, Status> {
    connection.spend_upstream()?;
    let _turn = connection.turn()?;
    let read = connection.shared.view.version(&request.name, &request.version).await;
    read.map_err(|error| connection.failed(Action::Read, &request.name, &error))
}

async fn refresh(
    connection: &Arc<Connection>,
    request: &RefreshSecretRequest,
    trace: Option<TraceContext>,
) -> Result<Response<Body>, Status> {
    let shared = &connection.shared;
    connection.spend(1)?;
    let Some(before) = shared.view.get(&request.name) else {
        return Err(status(&connection.unknown_name(trace)));
    };
    connection.spend_upstream()?;
    shared.refreshes.take(&request.name, shared.now()).map_err(|wait| {
        let error = too_often("this name was refreshed a moment ago; wait and try again", wait);
        connection.failed(Action::Refresh, &request.name, &error)
    })?;
    let _turn = connection.turn()?;
    let served = shared.view.refresh(&request.name).await;
    let served = served.map_err(|error| connection.failed(Action::Refresh, &before.source, &error))?;
    let asked = connection.event(Action::Refresh, &served.source, version_of(&served), trace);
    shared.audit.record(asked).map_err(|error| status(&error))?;
    let value = connection.hand_over(&served, Lookup::Miss, trace).map_err(|error| status(&error))?;
    connection.give(&served, value, true)
}

impl Connection {
    /// The answer of one secret. A small value is copied into it, a larger one is sent from where it is; neither takes a
    /// lock for a small value in place.
    fn give(
        self: &Arc<Self>,
        served: &Arc<Served>,
        value: &SecretBytes,
        in_place: bool,
    ) -> Result<Response<Body>, Status> {
        if value.len() <= reply::INLINE {
            let message = reply::single(self, SECRET, served, value).map_err(|error| status(&error))?;
            return Ok(wire::respond(Body::Message(Some(message))));
        }
        let held = self.shared.values.hold(&served.name, value, in_place).map_err(|error| status(&error))?;
        self.reply(vec![Entry::secret(SECRET, Arc::clone(served), held)])
    }

    fn reply(self: &Arc<Self>, entries: Vec<Entry>) -> Result<Response<Body>, Status> {
        let reply = Reply::new(self, entries).map_err(|error| status(&error))?;
        Ok(wire::respond(Body::Reply(Box::new(reply))))
    }

    /// The value as it stands in memory.
    fn read<'s>(&self, served: &'s Served, trace: Option<TraceContext>) -> Result<&'s SecretBytes, Error> {
        let outcome = if served.state == State::Stale { Lookup::Stale } else { Lookup::Hit };
        self.hand_over(served, outcome, trace)
    }

    /// Gives the value when its state allows that and the audit log has taken the record.
    pub(crate) fn hand_over<'s>(
        &self,
        served: &'s Served,
        outcome: Lookup,
        trace: Option<TraceContext>,
    ) -> Result<&'s SecretBytes, Error> {
        let version = version_of(served);
        let given = answer(served).inspect_err(|error| {
            let event = self.event(Action::Read, &served.source, version, trace);
            let _ = self.shared.audit.record(AuditEvent { error: Some(error.code()), ..event });
        });
        let recorded = given.and_then(|value| {
            let act = Act { actor: &self.actor, action: Action::Read, object: &served.source, version };
            if !self.shared.audit.repeat(&act)? {
                self.shared.audit.record(self.event(Action::Read, &served.source, version, trace))?;
            }
            Ok(value)
        });
        let outcome = if recorded.is_ok() { outcome } else { Lookup::Refused };
        self.shared.observer.event(&Event::Lookup { outcome });
        recorded
    }

    /// The refusal of a name that is not declared. It does not repeat the name: a caller may have mixed up its
    /// arguments, and what it sent may be a secret.
    pub(crate) fn unknown_name(&self, trace: Option<TraceContext>) -> Error {
        let error = Error::new(
            Code::UnknownName,
            "no secret of that name is declared here; ListSecrets shows the names",
        );
        self.refused(&error, trace);
        self.shared.observer.event(&Event::Lookup { outcome: Lookup::Refused });
        error
    }

    /// Records a failure and turns it into the caller's status. `object` is a declared name or an identifier.
    fn failed(&self, action: Action, object: &str, error: &Error) -> Status {
        let event = self.event(action, object, None, None);
        let _ = self.shared.audit.record(AuditEvent { error: Some(error.code()), ..event });
        self.shared.observer.event(&Event::Lookup { outcome: Lookup::Refused });
        status(error)
    }

    /// A place among the calls that may reach the provider.
    fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, Status> {
        self.shared.upstream.try_acquire().map_err(|_| {
            status(&too_often(
                "too many calls are waiting for the provider; try again",
                Duration::from_secs(1),
            ))
        })
    }
}

/// When each name was last refreshed. Only declared names get here, so the map is as small as the declaration.
pub(crate) struct Refreshes {
    gap: Duration,
    names: Mutex<HashMap<String, Rate>>,
}

/// Names that are kept before those that no longer matter are dropped.
const REMEMBERED: usize = 4096;

impl Refreshes {
    pub(crate) fn new(gap: Duration) -> Self {
        Self { gap, names: Mutex::default() }
    }

    /// Takes the turn of `name`, or says how long to wait.
    fn take(&self, name: &str, now: Duration) -> Result<(), Duration> {
        let mut names = self.names.lock();
        if names.len() >= REMEMBERED {
            names.retain(|_, rate| !rate.is_idle(now));
        }
        names.entry(name.to_owned()).or_insert_with(|| Rate::every(self.gap)).take(now, 1)
    }
}

fn no_room() -> Error {
    Error::new(Code::LimitExceeded, "the answer would be too large; ask for this one in another call")
}

fn version_of(served: &Served) -> Option<&str> {
    served.version.as_ref().map(keyward_core::Version::as_str)
}
