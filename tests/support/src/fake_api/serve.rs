use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::objects::{Objects, merge, text};
use super::route::Route;
use super::{CLASSES, EVENTS, KINDS, STATUSES, Shared, watching};

type Body = BoxBody<Bytes, Infallible>;

/// Accepts connections until it is dropped, and closes them all then.
pub(super) async fn forever(listener: std::net::TcpListener, shared: Arc<Shared>) {
    listener.set_nonblocking(true).expect("a listener that does not block");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| answer(Arc::clone(&shared), request));
        connections.spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let line = format!("{} {}", head.method, head.uri);
    let token = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let response = match Route::of(&head.uri) {
        None if head.uri.path() == "/version" => respond(200, &json!({"major": "1", "minor": "36"})),
        None => refusal(404, "no such path"),
        Some(route) => match objection(&shared, &route, &head.method, token) {
            Some((code, why)) => refusal(code, why),
            None => act(&shared, &route, &head.method, &body),
        },
    };
    shared.requests.lock().push(line);
    shared.tell();
    Ok(response)
}

/// What stands against a request before it is looked at.
fn objection(
    shared: &Shared,
    route: &Route,
    method: &Method,
    token: Option<&str>,
) -> Option<(u16, &'static str)> {
    let mut rules = shared.rules.lock();
    if !rules.failures.is_empty() {
        return Some((rules.failures.remove(0), "made to fail"));
    }
    if rules.token.as_ref().is_some_and(|wanted| token != Some(&format!("Bearer {wanted}"))) {
        return Some((401, "Unauthorized"));
    }
    let known = KINDS.contains(&route.resource.as_str());
    let served = route.resource != CLASSES
        || rules.versions.as_ref().is_none_or(|versions| versions.contains(&route.version));
    if !known || !served || rules.absent.contains(&route.resource) {
        return Some((404, "the server could not find the requested resource"));
    }
    let verb = route.verb(method);
    let forbidden = rules.forbidden.iter().any(|(v, r)| v == verb && *r == route.resource);
    forbidden.then_some((403, "forbidden: words of the server that nobody should repeat"))
}

fn act(shared: &Arc<Shared>, route: &Route, method: &Method, body: &[u8]) -> Response<Body> {
    if route.is_watch() {
        return Response::builder()
            .header(header::CONTENT_TYPE, "application/json")
            .body(BodyExt::boxed(watching::body(shared, route)))
            .expect("a response");
    }
    let page = shared.rules.lock().page;
    let subresource = shared.rules.lock().status_subresource && route.resource == STATUSES;
    let mut objects = shared.objects.lock();
    let namespace = route.namespace.as_deref().unwrap_or_default();
    let given: Option<Value> = serde_json::from_slice(body).ok();
    match (method.as_str(), &route.name, given) {
        ("GET", None, _) => list(&objects, route, page),
        ("GET", Some(name), _) => found(objects.get(&route.resource, namespace, name)),
        ("POST", None, Some(object)) => create(&mut objects, route, namespace, object, subresource),
        ("PUT", Some(name), Some(object)) => change(&mut objects, route, name, subresource, |before| {
            let version = text(&object, "resourceVersion");
            if !version.is_empty() && version != text(before, "resourceVersion") {
                return Err((409, "the object has been modified"));
            }
            *before = object;
            Ok(())
        }),
        ("PATCH", Some(name), Some(patch)) => change(&mut objects, route, name, subresource, |before| {
            let version = text(&patch, "resourceVersion");
            if !version.is_empty() && version != text(before, "resourceVersion") {
                return Err((409, "the object has been modified"));
            }
            merge(before, patch);
            Ok(())
        }),
        ("DELETE", Some(name), _) => found(objects.delete(&route.resource, namespace, name)),
        _ => refusal(400, "neither read nor write"),
    }
}

fn list(objects: &Objects, route: &Route, page: Option<usize>) -> Response<Body> {
    let mut items = objects.list(&route.resource, route.namespace.as_deref());
    if let Some(name) = route.selected() {
        items.retain(|item| text(item, "name") == name);
    }
    let asked = route.query("limit").and_then(|limit| limit.parse().ok()).unwrap_or(usize::MAX);
    let limit = page.map_or(asked, |page| page.min(asked));
    let skip: usize =
        route.query("continue").and_then(|token| token.trim_end_matches("+/=").parse().ok()).unwrap_or(0);
    let left = items.len().saturating_sub(skip);
    let mut metadata = json!({ "resourceVersion": objects.version().to_string() });
    if left > limit {
        metadata["continue"] = json!(format!("{}+/=", skip + limit));
    }
    let items: Vec<_> = items.into_iter().skip(skip).take(limit).collect();
    respond(200, &json!({ "metadata": metadata, "items": items }))
}

fn create(
    objects: &mut Objects,
    route: &Route,
    namespace: &str,
    mut object: Value,
    subresource: bool,
) -> Response<Body> {
    object["metadata"]["namespace"] = json!(namespace);
    let name = text(&object, "name").to_owned();
    if let Some(why) = wrong(&route.resource, &object) {
        return refusal(422, why);
    }
    if objects.get(&route.resource, namespace, &name).is_some() {
        return refusal(409, "already exists");
    }
    if subresource && let Some(members) = object.as_object_mut() {
        members.remove("status");
    }
    respond(201, &objects.put(&route.resource, object))
}

fn change(
    objects: &mut Objects,
    route: &Route,
    name: &str,
    subresource: bool,
    apply: impl FnOnce(&mut Value) -> Result<(), (u16, &'static str)>,
) -> Response<Body> {
    let namespace = route.namespace.as_deref().unwrap_or_default();
    let Some(before) = objects.get(&route.resource, namespace, name) else {
        return refusal(404, "not found");
    };
    if route.status && !subresource {
        return refusal(404, "no such subresource");
    }
    let mut after = before.clone();
    if let Err((code, why)) = apply(&mut after) {
        return refusal(code, why);
    }
    if subresource {
        // Each of the two ways changes its own part.
        if route.status {
            let status = after["status"].take();
            after = before;
            after["status"] = status;
        } else if let Some(members) = after.as_object_mut() {
            members.remove("status");
            if let Some(status) = before.get("status") {
                members.insert("status".to_owned(), status.clone());
            }
        }
    }
    after["metadata"]["name"] = json!(name);
    if route.namespace.is_some() {
        after["metadata"]["namespace"] = json!(namespace);
    }
    if let Some(why) = wrong(&route.resource, &after) {
        return refusal(422, why);
    }
    respond(200, &objects.put(&route.resource, after))
}

/// What a real server would refuse in an object.
fn wrong(resource: &str, object: &Value) -> Option<&'static str> {
    if !is_subdomain(text(object, "name")) {
        return Some("metadata.name is invalid");
    }
    // `ValidateWebhookService` of k8s.io/apiserver.
    if let Some(webhooks) = object["webhooks"].as_array() {
        let path = |webhook: &Value| webhook["clientConfig"]["service"]["path"].as_str().map(str::to_owned);
        let mut paths = webhooks.iter().filter_map(path);
        if paths.any(|path| path.strip_prefix('/').is_none_or(|rest| !rest.split('/').all(is_subdomain))) {
            return Some("webhooks[0].clientConfig.service.path is invalid");
        }
    }
    if let Some(labels) = object["metadata"]["labels"].as_object()
        && labels.values().any(|label| label.as_str().is_none_or(|text| text.len() > 63))
    {
        return Some("a label's value is invalid");
    }
    if resource == EVENTS {
        let long = |field: &str, limit: usize| object[field].as_str().is_none_or(|text| text.len() > limit);
        let empty = |field: &str| object[field].as_str().is_none_or(str::is_empty);
        if ["eventTime", "reportingController", "reportingInstance", "action", "reason", "type"]
            .iter()
            .any(|field| empty(field))
            || long("note", 1024)
            || long("reportingInstance", 128)
            || long("action", 128)
            || long("reason", 128)
        {
            return Some("the event is invalid");
        }
    }
    None
}

/// A DNS subdomain, RFC 1123.
fn is_subdomain(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= 253
        && text.starts_with(edge)
        && text.ends_with(edge)
        && text.chars().all(|c| edge(c) || c == '-' || c == '.')
}

fn found(object: Option<Value>) -> Response<Body> {
    object.map_or_else(|| refusal(404, "not found"), |object| respond(200, &object))
}

fn refusal(code: u16, message: &str) -> Response<Body> {
    respond(code, &json!({ "kind": "Status", "status": "Failure", "code": code, "message": message }))
}

fn respond(code: u16, value: &Value) -> Response<Body> {
    Response::builder()
        .status(StatusCode::from_u16(code).expect("a status"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(value.to_string())).boxed())
        .expect("a response")
}
