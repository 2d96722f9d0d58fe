use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::dial::Dialer;

/// A pool of connections over one dialer.
pub(crate) type Client = legacy::Client<Dialer, Full<Bytes>>;

/// Idle connections go after this long.
const IDLE: Duration = Duration::from_secs(90);

/// Windows and buffers are small, since a vault's answers are: memory for one connection stays under these together.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;
const HEADER_LIMIT: u32 = 16 * 1024;
const HTTP1_BUFFER: usize = 64 * 1024;

/// A busy HTTP/2 connection that answers no ping for this long is given up. Idle ones are not pinged.
const PING: Duration = Duration::from_secs(15);

pub(crate) fn build(dialer: Dialer, idle_per_host: usize) -> Client {
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(idle_per_host)
        .http1_max_buf_size(HTTP1_BUFFER)
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_max_header_list_size(HEADER_LIMIT)
        .http2_max_send_buf_size(STREAM_WINDOW as usize)
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
        .build(dialer)
}
