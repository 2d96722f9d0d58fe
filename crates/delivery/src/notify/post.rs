//! HTTP: `POST` with `{"event":"changed","names":["db-password"]}`; any 2xx answer will do.

use std::time::Duration;

use bytes::Bytes;
use keyward_core::HttpPost;
use serde::Serialize;

use super::{Failed, failed};

#[derive(Serialize)]
struct Body<'a> {
    event: &'static str,
    names: &'a [String],
}

pub(super) async fn send(
    http: &dyn HttpPost,
    url: &str,
    names: &[String],
    timeout: Duration,
) -> Result<(), Failed> {
    let body = serde_json::to_vec(&Body { event: "changed", names })
        .map_err(|_| Failed::for_good(failed("the names cannot be written as JSON")))?;
    match http.post(url, "application/json", Bytes::from(body), timeout).await {
        Ok(200..=299) => Ok(()),
        Ok(status) => Err(Failed::again(failed(format!("the application answered with status {status}")))),
        Err(error) => {
            Err(Failed::again(failed(format!("the application was not reached: {}", error.message()))))
        }
    }
}
