//! What the sidecar is compared with, in processes of their own and with the same allocator.

use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use keyward_proto::secrets::v1::{GetSecretRequest, GetSecretResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::Outcome;
use crate::load::sample;

/// Answers each length-prefixed message with one of the size of an encoded lookup.
pub(crate) async fn raw(socket: &Path) -> Outcome<()> {
    let listener = UnixListener::bind(socket)?;
    let reply = vec![7; prost::Message::encoded_len(&sample())];
    loop {
        let (stream, _) = listener.accept().await?;
        let reply = reply.clone();
        tokio::spawn(async move { drop(answer(stream, &reply).await) });
    }
}

async fn answer(mut stream: UnixStream, reply: &[u8]) -> std::io::Result<()> {
    let mut request = Vec::new();
    loop {
        let length = stream.read_u32().await? as usize;
        request.resize(length, 0);
        stream.read_exact(&mut request).await?;
        let mut frame = Vec::with_capacity(4 + reply.len());
        frame.extend_from_slice(&(reply.len() as u32).to_be_bytes());
        frame.extend_from_slice(reply);
        stream.write_all(&frame).await?;
    }
}

/// tonic alone: decodes a lookup and encodes an answer of the same size, nothing between.
pub(crate) async fn echo(socket: &Path) -> Outcome<()> {
    let incoming = UnixListenerStream::new(UnixListener::bind(socket)?);
    tonic::transport::Server::builder().add_service(Echo).serve_with_incoming(incoming).await?;
    Ok(())
}

#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "keyward.secrets.v1.SecretService";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<GetSecretResponse, GetSecretRequest>::default());
            Ok(grpc.unary(Echo, request).await)
        })
    }
}

impl UnaryService<GetSecretRequest> for Echo {
    type Response = GetSecretResponse;
    type Future = std::future::Ready<Result<Response<GetSecretResponse>, Status>>;

    fn call(&mut self, _: Request<GetSecretRequest>) -> Self::Future {
        std::future::ready(Ok(Response::new(sample())))
    }
}
