use std::net::SocketAddr;
use std::sync::Arc;

use keyward_core::Code;
use keyward_egress::{EgressSettings, PlainHttp, ProxySettings, Request, Target};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use crate::server::{Authority, json};
use crate::{VAULT, egress, get};

/// A proxy that knows CONNECT only and leads every tunnel to `target`.
async fn proxy(target: SocketAddr, answer: &'static str) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match client.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                seen.lock().push(String::from_utf8(head).unwrap());
                client.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes()).await.unwrap();
                if answer.starts_with("200") {
                    let mut server = TcpStream::connect(target).await.unwrap();
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    (address, heads)
}

fn settings(ca: &Authority, proxy: SocketAddr, no_proxy: &'static str) -> EgressSettings {
    let vars = move |name: &str| match name {
        "HTTPS_PROXY" | "HTTP_PROXY" | "ALL_PROXY" => Some(format!("http://user:pass%20word@{proxy}")),
        "NO_PROXY" => Some(no_proxy.to_owned()),
        _ => None,
    };
    EgressSettings {
        extra_roots_pem: Some(ca.pem.clone()),
        proxy: ProxySettings::from_vars(&vars),
        ..EgressSettings::default()
    }
}

#[tokio::test]
async fn https_goes_through_connect_with_the_proxys_password_and_tls_ends_at_the_vault() {
    let ca = Authority::new();
    let server = ca.server(&[VAULT]).http(async |_| json(200, "{}")).await;
    let (proxy, heads) = proxy(server.address, "200 Connection established").await;
    let egress = egress(settings(&ca, proxy, ""));
    assert_eq!(egress.send(get(&format!("https://{VAULT}/"))).await.ok().unwrap().status, 200);
    let heads = heads.lock();
    assert!(heads[0].starts_with("CONNECT shop.vault.test:443 HTTP/1.1\r\n"), "{heads:?}");
    assert!(heads[0].contains("Basic dXNlcjpwYXNzIHdvcmQ="), "{heads:?}");
    assert_eq!(egress.handshake(VAULT).unwrap().group, "X25519MLKEM768");
}

#[tokio::test]
async fn a_proxy_may_speak_tls_itself() {
    let ca = Authority::new();
    let server = ca.server(&[VAULT]).http(async |_| json(200, "{}")).await;
    let target = server.address;
    let proxy = ca
        .server(&["127.0.0.1"])
        .raw(move |mut client| {
            Box::pin(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                assert!(head.starts_with(b"CONNECT shop.vault.test:443 "));
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let mut server = TcpStream::connect(target).await.unwrap();
                let _ = copy_bidirectional(&mut client, &mut server).await;
            })
        })
        .await;
    let address = proxy.address;
    let vars = move |name: &str| (name == "HTTPS_PROXY").then(|| format!("https://{address}"));
    let settings = EgressSettings {
        extra_roots_pem: Some(ca.pem.clone()),
        proxy: ProxySettings::from_vars(&vars),
        ..EgressSettings::default()
    };
    assert_eq!(egress(settings).send(get(&format!("https://{VAULT}/"))).await.ok().unwrap().status, 200);
    assert_eq!((proxy.connections(), server.connections()), (1, 1));
}

#[tokio::test]
async fn a_host_in_no_proxy_is_reached_directly() {
    let ca = Authority::new();
    let server = ca.server(&[VAULT]).http(async |_| json(200, "{}")).await;
    let (proxy, heads) = proxy(server.address, "200 OK").await;
    let mut settings = settings(&ca, proxy, "vault.test");
    settings.resolve = vec![(VAULT.to_owned(), server.address)];
    assert_eq!(egress(settings).send(get(&format!("https://{VAULT}/"))).await.ok().unwrap().status, 200);
    assert!(heads.lock().is_empty());
}

#[tokio::test]
async fn the_metadata_service_is_never_asked_through_a_proxy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let imds = listener.local_addr().unwrap();
    let head = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 1024];
        let length = stream.read(&mut head).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        String::from_utf8_lossy(&head[..length]).into_owned()
    });
    let (proxy, heads) = proxy(imds, "200 OK").await;
    let mut request: Request = get(&format!("http://{imds}/metadata/identity/oauth2/token"));
    request.target = Target::Imds;
    request.plain_http = PlainHttp::MetadataService;
    let egress = egress(settings(&Authority::new(), proxy, ""));
    assert_eq!(egress.send(request).await.ok().unwrap().status, 200);
    assert!(head.await.unwrap().starts_with("GET /metadata/identity/oauth2/token HTTP/1.1"));
    assert!(heads.lock().is_empty());
}

/// B1: the standard splits a user part at the first `@`, which made the rest of the password a host's name.
#[tokio::test]
async fn a_password_with_an_at_sign_is_sent_whole_and_shown_nowhere() {
    let ca = Authority::new();
    let (proxy, heads) = proxy("127.0.0.1:1".parse().unwrap(), "407 Proxy Authentication Required").await;
    let vars = move |name: &str| (name == "HTTPS_PROXY").then(|| format!("http://user:sec@ret@{proxy}"));
    let settings = EgressSettings {
        extra_roots_pem: Some(ca.pem.clone()),
        proxy: ProxySettings::from_vars(&vars),
        ..EgressSettings::default()
    };
    let egress = egress(settings);
    let error = egress.send(get(&format!("https://{VAULT}/"))).await.err().unwrap();
    let text = format!("{error} {:?} {:?}", error.internal_detail(), egress.proxy_for(VAULT));
    assert!(text.contains(&format!("the proxy {proxy} did not open a tunnel")), "{text}");
    for part in ["user", "sec", "ret@"] {
        assert!(!text.contains(part), "{text}");
    }
    // user:sec@ret
    assert!(heads.lock()[0].contains("Basic dXNlcjpzZWNAcmV0\r\n"), "{heads:?}");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_a_connect_failure_that_names_it_without_its_password() {
    let ca = Authority::new();
    let server = ca.server(&[VAULT]).http(async |_| json(200, "{}")).await;
    for refusal in ["407 Proxy Authentication Required", "403 Forbidden"] {
        let (proxy, _) = proxy(server.address, refusal).await;
        let error =
            egress(settings(&ca, proxy, "")).send(get(&format!("https://{VAULT}/"))).await.err().unwrap();
        assert_eq!(error.code(), Code::Connect);
        let text = format!("{error} {:?}", error.internal_detail());
        assert!(text.contains(&proxy.to_string()) && text.contains("HTTPS_PROXY"), "{text}");
        assert!(!text.contains("pass"), "{text}");
    }
    assert_eq!(server.connections(), 0);
}
