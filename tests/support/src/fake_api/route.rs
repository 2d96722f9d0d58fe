use http::{Method, Uri};
use percent_encoding::percent_decode_str;

/// What a request is about.
#[derive(Debug, Default)]
pub(super) struct Route {
    pub(super) version: String,
    pub(super) resource: String,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) status: bool,
    query: Vec<(String, String)>,
}

impl Route {
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        let mut parts = uri.path().split('/').filter(|part| !part.is_empty());
        let version = match parts.next()? {
            "api" => parts.next()?,
            "apis" => {
                let _group = parts.next()?;
                parts.next()?
            }
            _ => return None,
        };
        let mut route = Self { version: version.to_owned(), ..Self::default() };
        let mut next = parts.next()?;
        if next == "namespaces" {
            route.namespace = Some(parts.next()?.to_owned());
            next = parts.next()?;
        }
        next.clone_into(&mut route.resource);
        route.name = parts.next().map(str::to_owned);
        route.status = parts.next() == Some("status");
        route.query = query(uri.query().unwrap_or_default());
        Some(route)
    }

    pub(super) fn query(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    pub(super) fn is_watch(&self) -> bool {
        matches!(self.query("watch"), Some("true" | "1"))
    }

    /// The name that a field selector asks for.
    pub(super) fn selected(&self) -> Option<&str> {
        self.query("fieldSelector")?.strip_prefix("metadata.name=")
    }

    pub(super) fn verb(&self, method: &Method) -> &'static str {
        match *method {
            Method::GET if self.is_watch() => "watch",
            Method::GET if self.name.is_some() => "get",
            Method::GET => "list",
            Method::POST => "create",
            Method::PUT => "update",
            Method::PATCH => "patch",
            _ => "delete",
        }
    }
}

fn query(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), percent_decode_str(value).decode_utf8_lossy().into_owned()))
        .collect()
}
