use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, Method, header};
use keyward_core::{Code, Error, HttpPost, Result, address};

use crate::request::{PlainHttp, Request, RequestBody, Target};
use crate::{Egress, Response};

/// An answer to a notification or an export may be this long; it is dropped.
const ANSWER_LIMIT: usize = 64 * 1024;

/// The little of HTTP that notification and trace export need.
pub(crate) struct PostClient {
    egress: Arc<Egress>,
    target: Target,
}

impl PostClient {
    pub(crate) fn new(egress: Arc<Egress>, target: Target) -> Self {
        Self { egress, target }
    }
}

#[async_trait]
impl HttpPost for PostClient {
    async fn post(&self, url: &str, content_type: &str, body: Bytes, timeout: Duration) -> Result<u16> {
        let bad = |what: String| Error::new(Code::AddressRefused, what);
        let url = address::parse(url).map_err(|why| bad(format!("the URL to post to {why}")))?;
        let content_type = HeaderValue::from_str(content_type)
            .map_err(|_| bad("the content type cannot be a header".to_owned()))?;
        let mut request =
            Request::new(self.target, Method::POST, url).header(header::CONTENT_TYPE, content_type);
        request.body = RequestBody::Plain(body);
        request.deadline = timeout;
        request.max_response = ANSWER_LIMIT;
        request.plain_http = PlainHttp::Loopback;
        let Response { status, .. } = self.egress.send(request).await?;
        Ok(status)
    }
}
