//! The admin API: JSON over loopback HTTP, for scripts that have no library to call.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::engine::{Asked, Core};
use crate::faults::{Fault, Schedule};
use crate::reply::Reply;
use crate::state_file::{self, AssignmentEntry, IdentityEntry, SecretEntry};
use crate::vault::VaultHandle;

type Answer = Result<Reply, (StatusCode, String)>;

/// Answers one request.
pub(crate) fn handle(core: &Arc<Core>, asked: &Asked<'_>) -> Reply {
    // A web page in a developer's browser must not steer the emulator.
    if asked.headers.contains_key("origin") {
        return Reply::json(StatusCode::FORBIDDEN, &json!({ "error": "not for browsers" }));
    }
    match route(core, asked) {
        Ok(reply) => reply,
        Err((status, error)) => Reply::json(status, &json!({ "error": error })),
    }
}

fn route(core: &Arc<Core>, asked: &Asked<'_>) -> Answer {
    let path: Vec<&str> = asked.path.split('/').filter(|segment| !segment.is_empty()).collect();
    match (asked.method.as_str(), path.as_slice()) {
        ("GET", ["counters"]) => Ok(ok(json!({
            "requests": core.counters.rows(),
            "connections": core.counters.connections(),
        }))),
        ("DELETE", ["counters"]) => {
            core.counters.reset();
            Ok(done())
        }
        ("GET", ["faults"]) => {
            let faults = core.faults.list();
            Ok(ok(faults.into_iter().map(|(id, fault)| json!({ "id": id, "fault": fault })).collect()))
        }
        ("POST", ["faults"]) => {
            let fault: Fault = read(asked)?;
            Ok(ok(json!({ "id": core.faults.set(fault) })))
        }
        ("DELETE", ["faults"]) => {
            core.faults.clear_all();
            Ok(done())
        }
        ("DELETE", ["faults", id]) => {
            let cleared = id.parse().is_ok_and(|id| core.faults.clear(id));
            if cleared { Ok(done()) } else { Err(missing()) }
        }
        ("GET", ["schedules"]) => {
            let shipped: Vec<String> = Schedule::shipped().into_iter().map(|s| s.name).collect();
            Ok(ok(json!({ "shipped": shipped, "playing": core.faults.playing(core.clock.unix_millis()) })))
        }
        ("POST", ["schedules"]) => play(core, asked),
        ("POST", ["clock"]) => {
            let advance: Advance = read(asked)?;
            core.clock.advance(Duration::from_secs(advance.advance_seconds));
            Ok(ok(json!({ "now": core.clock.unix_millis() / 1000 })))
        }
        ("GET", ["ca.pem"]) => {
            Ok(Reply::bytes(StatusCode::OK, "application/x-pem-file", core.ca_pem.read().clone()))
        }
        ("GET", ["issuer", "jwks"]) => Ok(ok(core.issuer.jwks())),
        ("POST", ["issuer", "token"]) => mint(core, asked),
        ("PUT", ["issuers"]) => {
            let entry: IssuerKeys = read(asked)?;
            core.issuer.trust(&entry.issuer, entry.jwks).map_err(bad)?;
            Ok(done())
        }
        ("POST", ["identities"]) => {
            let entry: IdentityEntry = read(asked)?;
            let identity = state_file::register(core, &entry).map_err(bad)?;
            Ok(ok(json!({
                "clientId": identity.client_id, "objectId": identity.object_id, "tenantId": identity.tenant_id,
            })))
        }
        ("POST", ["assignments"]) => {
            let entry: AssignmentEntry = read(asked)?;
            state_file::assign(core, &entry).map_err(bad)?;
            Ok(done())
        }
        ("GET", ["vaults"]) => {
            let vaults = core.vaults.read();
            Ok(ok(vaults.values().map(|v| json!({ "name": v.name, "host": v.host })).collect()))
        }
        ("PUT", ["vaults", vault, "secrets", name]) => set_secret(core, asked, vault, name),
        _ => Err(missing()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Play {
    name: Option<String>,
    schedule: Option<Value>,
    #[serde(default = "real_time")]
    speed: f64,
}

fn real_time() -> f64 {
    1.0
}

fn play(core: &Core, asked: &Asked<'_>) -> Answer {
    let play: Play = read(asked)?;
    let schedule = match (play.name, play.schedule) {
        (Some(name), None) => Schedule::named(&name).ok_or_else(missing)?,
        (None, Some(schedule)) => Schedule::parse(schedule.to_string().as_bytes()).map_err(bad)?,
        _ => return Err(bad("give either `name` or `schedule`")),
    };
    if !(play.speed > 0.0 && play.speed.is_finite()) {
        return Err(bad("`speed` must be above zero"));
    }
    let seconds = schedule.hours() * 3600.0 / play.speed;
    core.faults.play(Arc::new(schedule), play.speed, core.clock.unix_millis());
    Ok(ok(json!({ "lastsSeconds": seconds })))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Advance {
    advance_seconds: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuerKeys {
    issuer: String,
    jwks: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mint {
    namespace: String,
    service_account: String,
    audience: String,
    #[serde(default = "one_hour")]
    lifetime_seconds: u64,
}

fn one_hour() -> u64 {
    3600
}

fn mint(core: &Core, asked: &Asked<'_>) -> Answer {
    let mint: Mint = read(asked)?;
    let lifetime = Duration::from_secs(mint.lifetime_seconds);
    let token = core.issuer.mint_service_account_token(
        &mint.namespace,
        &mint.service_account,
        &mint.audience,
        lifetime,
    );
    Ok(Reply::bytes(StatusCode::OK, "application/jwt", token))
}

fn set_secret(core: &Arc<Core>, asked: &Asked<'_>, vault: &str, name: &str) -> Answer {
    let mut entry: SecretEntry = read(asked)?;
    name.clone_into(&mut entry.name);
    let vault = core.vaults.read().get(vault).cloned().ok_or_else(missing)?;
    let handle = VaultHandle::new(core.clone(), vault);
    let version = state_file::set_secret(&handle, &entry).map_err(bad)?;
    Ok(ok(json!({ "version": version })))
}

/// The parser's message is kept back: it may quote a value.
fn read<T: for<'de> Deserialize<'de>>(asked: &Asked<'_>) -> Result<T, (StatusCode, String)> {
    serde_json::from_slice(asked.body).map_err(|error| {
        bad(format!("not the JSON that {} {} takes, at column {}", asked.method, asked.path, error.column()))
    })
}

fn ok(body: Value) -> Reply {
    Reply::json(StatusCode::OK, &body)
}

fn done() -> Reply {
    Reply::empty(StatusCode::NO_CONTENT)
}

fn missing() -> (StatusCode, String) {
    (StatusCode::NOT_FOUND, "there is no such thing".to_owned())
}

fn bad(error: impl std::fmt::Display) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, error.to_string())
}
