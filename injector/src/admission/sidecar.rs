//! `via: sidecar` and `via: init`: a container of ours with a token of its own.

mod flags;
mod identity;
mod notify;
mod user;

use keyward_core::config::injector::{Injection, Position, Via};
use keyward_core::{Code, Error, Result};
use serde_json::{Value, json};

use super::Facts;
use super::containers::{INIT, SIDECAR, add_volume, list, member, mount};
use super::pod::{Pod, is_mesh, name};
use super::wish::Wish;
use user::User;

/// The volumes that we add: files, socket, state, token, configuration.
pub(super) const VOLUMES: &[&str] = &[FILES, API, STATE, TOKEN, CONFIG];
pub(super) const FILES: &str = "keyward-files";
const API: &str = "keyward-api";
const STATE: &str = "keyward-state";
const TOKEN: &str = "keyward-token";
const CONFIG: &str = "keyward-config";

const API_PATH: &str = "/var/run/keyward-api";
const STATE_PATH: &str = "/var/run/keyward-state";
const TOKEN_PATH: &str = "/var/run/keyward-token";
const CONFIG_PATH: &str = "/etc/keyward";

/// Where our container keeps its own things; files must be elsewhere.
pub(super) const PRIVATE_PATHS: &[&str] = &[API_PATH, STATE_PATH, TOKEN_PATH, CONFIG_PATH];

/// The socket and the snapshot are small.
const SMALL: &str = "1Mi";

pub(super) fn add(
    pod: &mut Value,
    namespace: &str,
    wish: &Wish,
    injection: &Injection,
    facts: &Facts,
) -> Result<()> {
    let view = Pod(pod);
    let user = User::of(view, wish);
    let identity = identity::of(view, namespace, wish, injection, facts)?;
    let config = flags::config(wish, injection, facts)?;
    let objects = config.as_ref().map_or(&wish.objects, |config| &config.objects);
    let fits = notify::check(objects, view, &user).and_then(|()| user.check(objects));
    fits.map_err(|error| match &wish.config_map {
        Some(map) => flags::of_map(map, facts, &error),
        None => error,
    })?;
    let flags = flags::of(wish, injection, facts, &identity, &user);
    let ends = view.ends();
    let uses_token = !identity.managed;

    let files = wish.mount_path.clone();
    add_volume(pod, memory(FILES, &injection.volume_size.to_string()));
    if wish.via == Via::Sidecar {
        add_volume(pod, memory(API, SMALL));
        add_volume(pod, memory(STATE, &injection.volume_size.to_string()));
    }
    if uses_token {
        add_volume(pod, token(&flags::audience(injection)));
    }
    if let Some(map) = &wish.config_map {
        add_volume(pod, json!({"name": CONFIG, "configMap": {"name": map}}));
    }
    mount(pod, wish, FILES, &files);
    if wish.via == Via::Sidecar {
        mount(pod, wish, API, API_PATH);
    }

    let build = |name: &str, role: Role| container(name, role, wish, injection, &flags, &user, uses_token);
    match wish.via {
        Via::Init => insert(pod, build(INIT, Role::Once), wish.position),
        Via::Sidecar if facts.native_sidecars => insert(pod, build(SIDECAR, Role::Native), wish.position),
        _ => {
            insert(pod, build(INIT, Role::Once), wish.position);
            if ends {
                share_processes(pod)?;
            }
            let beside = build(SIDECAR, if ends { Role::UntilTheApplicationEnds } else { Role::Beside });
            let containers = list(pod, "containers");
            if !containers.iter().any(|there| name(there) == SIDECAR) {
                containers.push(beside);
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// An init container that ends.
    Once,
    /// An init container that goes on running.
    Native,
    /// An ordinary container of a pod that runs for ever.
    Beside,
    /// An ordinary container of a pod that ends.
    UntilTheApplicationEnds,
}

fn container(
    name: &str,
    role: Role,
    wish: &Wish,
    injection: &Injection,
    flags: &[String],
    user: &User,
    uses_token: bool,
) -> Value {
    let once = role == Role::Once;
    // Without a socket there is no one to ask; the flags of the local API and its state belong to a running sidecar.
    let is_of_server =
        |flag: &str| ["--grpc-", "--state-", "--admin-"].iter().any(|own| flag.starts_with(own));
    // Kubernetes expands `$(NAME)` in arguments, and takes `$$` for a dollar sign.
    let mut args: Vec<String> = flags
        .iter()
        .filter(|flag| !once || !is_of_server(flag))
        .map(|flag| flag.replace('$', "$$"))
        .collect();
    match role {
        Role::Once => args.push("--once".to_owned()),
        Role::UntilTheApplicationEnds => args.push("--exit-with-application".to_owned()),
        Role::Native | Role::Beside => {}
    }
    let mut mounts = vec![json!({"name": FILES, "mountPath": wish.mount_path})];
    if !once {
        mounts.push(json!({"name": API, "mountPath": API_PATH}));
        mounts.push(json!({"name": STATE, "mountPath": STATE_PATH}));
    }
    if uses_token {
        mounts.push(json!({"name": TOKEN, "mountPath": TOKEN_PATH, "readOnly": true}));
    }
    if wish.config_map.is_some() {
        mounts.push(json!({"name": CONFIG, "mountPath": CONFIG_PATH, "readOnly": true}));
    }
    let mut container = json!({
        "name": name,
        "image": injection.image,
        "command": ["/keyward-sidecar"],
        "args": args,
        "securityContext": user.security_context(),
        "resources": {"requests": wish.requests, "limits": wish.limits},
        "volumeMounts": mounts,
    });
    let mut put = |key: &str, value: Value| *member(&mut container, key) = value;
    if let Some(policy) = &injection.image_pull_policy {
        put("imagePullPolicy", json!(policy));
    }
    if role == Role::Native {
        put("restartPolicy", json!("Always"));
    }
    if !once {
        // The application starts once this succeeds. The probe itself waits for the moment, so that no second is lost;
        // a vault that is away is no reason to be restarted before an hour is over.
        let probe = json!({
            "exec": {"command": ["/keyward-sidecar", "--probe", "--wait=8s"]},
            "periodSeconds": 1,
            "timeoutSeconds": 10,
            "failureThreshold": 360,
        });
        put("startupProbe", probe);
    }
    if !once && let Some(listen) = wish.admin_listen {
        put("ports", json!([{"name": "keyward-admin", "containerPort": listen.port()}]));
    }
    container
}

/// Puts our init container where the network is there and the application is not.
fn insert(pod: &mut Value, ours: Value, position: Position) {
    let containers = list(pod, "initContainers");
    let there = containers.iter().position(|there| name(there) == name(&ours));
    // What another webhook has changed about it since stays.
    let ours = there.map_or(ours, |index| containers.remove(index));
    let index = match position {
        Position::First => 0,
        Position::Last => containers.len(),
        Position::Auto => containers.iter().rposition(is_mesh).map_or(0, |mesh| mesh.saturating_add(1)),
    };
    containers.insert(index, ours);
}

/// Without init containers that go on running, a sidecar sees the application's end only among the pod's processes.
fn share_processes(pod: &mut Value) -> Result<()> {
    if Pod(pod).flag("/spec/shareProcessNamespace") == Some(false) {
        return Err(Error::new(
            Code::PodUnsupported,
            "on this cluster, which is older than native sidecars, the sidecar of a pod that ends needs \
             shareProcessNamespace: true; or use keyward.dev/via: init",
        ));
    }
    *member(member(pod, "spec"), "shareProcessNamespace") = json!(true);
    Ok(())
}

fn memory(name: &str, size: &str) -> Value {
    json!({"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": size}})
}

/// A token for Entra alone, which the kubelet renews.
fn token(audience: &str) -> Value {
    let source =
        json!({"serviceAccountToken": {"audience": audience, "expirationSeconds": 3600, "path": "token"}});
    json!({"name": TOKEN, "projected": {"sources": [source]}})
}
