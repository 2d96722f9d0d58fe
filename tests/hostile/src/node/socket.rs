//! A client of `keyward.sock` that does not play by the rules: HTTP/2 by hand.

use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use prost::Message;
use tokio::net::UnixStream;

use crate::Outcome;

/// One connection.
pub(crate) struct Socket {
    send: SendRequest<Bytes>,
    connection: tokio::task::AbortHandle,
}

/// A message as gRPC frames it.
pub(crate) fn encoded(message: &impl Message) -> Bytes {
    let body = message.encode_to_vec();
    let mut frame = BytesMut::with_capacity(body.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(body.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(&body);
    frame.freeze()
}

impl Socket {
    /// Connects as this user with a window of this many bytes for each answer: with 0 nothing of it can be sent.
    pub(crate) async fn connect_as(path: &Path, uid: u32, window: u32) -> Outcome<Self> {
        let stream = UnixStream::from_std(dial(path, uid)?)?;
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(window)
            .max_concurrent_reset_streams(10_000)
            .handshake(stream)
            .await?;
        let connection = tokio::spawn(async move { drop(connection.await) }).abort_handle();
        Ok(Self { send, connection })
    }

    /// Starts a call and leaves its answer to the caller.
    pub(crate) async fn call(
        &mut self,
        method: &str,
        body: Bytes,
        headers: &[(&'static str, String)],
    ) -> Outcome<ResponseFuture> {
        let mut send = self.send.clone().ready().await?;
        let mut request =
            Request::post(format!("http://localhost/keyward.secrets.v1.SecretService/{method}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let (answer, mut stream) = send.send_request(request.body(())?, false)?;
        stream.send_data(body, true)?;
        Ok(answer)
    }

    /// Calls and reads the whole answer.
    pub(crate) async fn ask(&mut self, method: &str, body: Bytes) -> Outcome<usize> {
        let mut body = self.call(method, body, &[]).await?.await?.into_body();
        let mut length = 0;
        while let Some(part) = body.data().await {
            let part = part?;
            length += part.len();
            body.flow_control().release_capacity(part.len())?;
        }
        Ok(length)
    }
}

/// A connection made as another user, who is told apart from now on; nothing of it is read or written yet.
pub(crate) fn dial(path: &Path, uid: u32) -> Outcome<std::os::unix::net::UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    use rustix::process::Uid;
    use rustix::thread::set_thread_res_uid;
    let address = SocketAddrUnix::new(path)?;
    // It does not wait for a place in the line.
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::NONBLOCK, None)?;
    let (root, user) = (Uid::ROOT, Uid::from_raw(uid));
    set_thread_res_uid(root, user, root)?;
    let connected = connect(&socket, &address);
    set_thread_res_uid(root, root, root)?;
    connected?;
    Ok(socket.into())
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
