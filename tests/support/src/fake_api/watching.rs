use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Shared;
use super::objects::text;
use super::route::Route;

type Chunk = Result<Frame<Bytes>, Infallible>;

/// What one watch has told, and what wakes it.
struct Watch {
    shared: Arc<Shared>,
    resource: String,
    selected: Option<String>,
    told: u64,
    lines: VecDeque<Value>,
    moved: watch::Receiver<u64>,
    cut: watch::Receiver<u64>,
    end: Instant,
    over: bool,
}

/// The lines of a watch from the version that the route names.
pub(super) fn body(
    shared: &Arc<Shared>,
    route: &Route,
) -> StreamBody<impl Stream<Item = Chunk> + Send + Sync + use<>> {
    let number = |key: &str| route.query(key).and_then(|text| text.parse().ok());
    let mut cut = shared.cut.subscribe();
    cut.borrow_and_update();
    let watch = Watch {
        shared: Arc::clone(shared),
        resource: route.resource.clone(),
        selected: route.selected().map(str::to_owned),
        told: number("resourceVersion").unwrap_or(0),
        lines: VecDeque::new(),
        moved: shared.moved.subscribe(),
        cut,
        end: Instant::now() + Duration::from_secs(number("timeoutSeconds").unwrap_or(300)),
        over: false,
    };
    StreamBody::new(futures::stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((Ok(Frame::data(Bytes::from(format!("{line}\n")))), watch))
    }))
}

impl Watch {
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.over {
                return None;
            }
            self.moved.borrow_and_update();
            if self.look() {
                continue;
            }
            tokio::select! {
                _ = self.moved.changed() => {}
                _ = self.cut.changed() => return None,
                () = tokio::time::sleep_until(self.end) => return None,
            }
        }
    }

    /// Takes up what is new; answers whether there is anything.
    fn look(&mut self) -> bool {
        let objects = self.shared.objects.lock();
        let Some(changes) = objects.since(self.told, &self.resource) else {
            self.over = true;
            self.lines.push_back(json!({
                "type": "ERROR",
                "object": { "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410,
                    "reason": "Expired", "message": "too old resource version" },
            }));
            return true;
        };
        for change in changes {
            if self.selected.as_ref().is_none_or(|name| name == text(&change.object, "name")) {
                self.lines.push_back(json!({ "type": change.kind, "object": change.object }));
            }
        }
        // Changes elsewhere are told as bookmarks, so that both ways of going on are used.
        if self.lines.is_empty() && objects.version() > self.told {
            self.lines.push_back(json!({
                "type": "BOOKMARK",
                "object": { "metadata": { "resourceVersion": objects.version().to_string() } },
            }));
        }
        self.told = objects.version();
        !self.lines.is_empty()
    }
}
