use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use hickory_resolver::proto::op::Message;
use hickory_resolver::proto::rr::rdata::CNAME;
use hickory_resolver::proto::rr::{RData, Record};
use keyward_core::Code;
use parking_lot::Mutex;
use tempfile::TempDir;

use super::*;
use crate::lookup::failed;

/// One question as a name server sees it.
#[derive(Debug, Clone, PartialEq)]
struct Question {
    name: String,
    kind: RecordType,
    tcp: bool,
    edns: bool,
}

enum Reply {
    Records(Vec<Record>),
    Code(ResponseCode),
    Truncated,
    Nothing,
}

/// A name server on UDP and TCP; ends when dropped.
struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Question>>>,
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    fn start(reply: impl Fn(&Question) -> Reply + Send + Sync + 'static) -> Self {
        // A port that is free for both protocols.
        let sockets = (0..100).find_map(|_| bind(Ipv4Addr::LOCALHOST, 0)).unwrap();
        Self::on(sockets, reply)
    }

    fn on(
        (udp, tcp): (UdpSocket, TcpListener),
        reply: impl Fn(&Question) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let address = udp.local_addr().unwrap();
        let (asked, ended, reply) =
            (Arc::<Mutex<Vec<Question>>>::default(), Arc::<AtomicBool>::default(), Arc::new(reply));
        let answer = {
            let asked = Arc::clone(&asked);
            Arc::new(move |bytes: &[u8], tcp| answer(bytes, tcp, &asked, &*reply))
        };
        let (over_udp, over_tcp) = (Arc::clone(&answer), answer);
        let (udp_ended, tcp_ended) = (Arc::clone(&ended), Arc::clone(&ended));
        let datagrams = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                if udp_ended.load(Ordering::Acquire) {
                    return;
                }
                if let Some(bytes) = over_udp(&buffer[..length], false) {
                    let _ = udp.send_to(&bytes, from);
                }
            }
        });
        let streams = std::thread::spawn(move || {
            while let Ok((mut stream, _)) = tcp.accept() {
                if tcp_ended.load(Ordering::Acquire) {
                    return;
                }
                let over_tcp = Arc::clone(&over_tcp);
                // Ends with its connection.
                std::thread::spawn(move || {
                    while let Some(bytes) = message(&mut stream) {
                        if let Some(bytes) = over_tcp(&bytes, true) {
                            let mut framed = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
                            framed.extend(bytes);
                            let _ = stream.write_all(&framed);
                        }
                    }
                });
            }
        });
        Self { address, asked, ended, threads: vec![datagrams, streams] }
    }

    fn asked(&self) -> Vec<Question> {
        self.asked.lock().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        let _ = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.send_to(&[0], self.address));
        let _ = TcpStream::connect(self.address);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

fn bind(ip: Ipv4Addr, port: u16) -> Option<(UdpSocket, TcpListener)> {
    let tcp = TcpListener::bind((ip, port)).ok()?;
    let udp = UdpSocket::bind(tcp.local_addr().ok()?).ok()?;
    Some((udp, tcp))
}

fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

fn answer(
    bytes: &[u8],
    tcp: bool,
    asked: &Mutex<Vec<Question>>,
    reply: &dyn Fn(&Question) -> Reply,
) -> Option<Vec<u8>> {
    let request = Message::from_vec(bytes).ok()?;
    let query = request.queries.first()?.clone();
    let question = Question {
        name: query.name().to_ascii(),
        kind: query.query_type(),
        tcp,
        edns: request.edns.is_some(),
    };
    asked.lock().push(question.clone());
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_available = true;
    response.add_query(query);
    match reply(&question) {
        Reply::Records(records) => {
            response.add_answers(records);
        }
        Reply::Code(code) => response.metadata.response_code = code,
        Reply::Truncated => response.metadata.truncation = true,
        Reply::Nothing => return None,
    }
    Some(response.to_vec().unwrap())
}

fn v4(name: &str, last: u8) -> Record {
    Record::from_rdata(Name::from_ascii(name).unwrap(), 60, RData::A(Ipv4Addr::new(192, 0, 2, last).into()))
}

fn v6(name: &str, last: u16) -> Record {
    let address = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
    Record::from_rdata(Name::from_ascii(name).unwrap(), 60, RData::AAAA(address.into()))
}

/// An A record for A and nothing for AAAA.
fn only_v4(question: &Question) -> Reply {
    match question.kind {
        RecordType::A => Reply::Records(vec![v4(&question.name, 1)]),
        _ => Reply::Records(Vec::new()),
    }
}

/// A process with files of its own.
struct Host {
    home: TempDir,
    dns: Dns,
}

impl Host {
    fn new(resolv_conf: &str, hosts: &str, port: u16) -> Self {
        let home = TempDir::new().unwrap();
        let (conf, file) = (home.path().join("resolv.conf"), home.path().join("hosts"));
        std::fs::write(&conf, resolv_conf).unwrap();
        std::fs::write(&file, hosts).unwrap();
        Self { home, dns: Dns { resolv_conf: conf, hosts: file, port, limit: Duration::from_secs(60) } }
    }

    fn of(server: &Server) -> Self {
        Self::new("nameserver 127.0.0.1\n", "127.0.0.1 localhost\n", server.address.port())
    }
}

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 0)).collect()
}

/// The message for the user.
fn refused(host: &Host, name: &str) -> String {
    let error = failed(name, &host.dns.ask(name).unwrap_err());
    assert_eq!(error.code(), Code::Dns);
    error.message().to_owned()
}

#[test]
fn an_answer_that_is_too_long_for_udp_comes_over_tcp() {
    // Twelve names of sixty bytes, as long as chains of private links and traffic managers get, and more.
    let server = Server::start(|question| {
        if !question.tcp {
            return Reply::Truncated;
        }
        let link = |n: usize| match n {
            0 => question.name.clone(),
            n => format!("{}.{n}.example.", "x".repeat(60)),
        };
        let mut records: Vec<_> = (0..12)
            .map(|n| {
                let to = Name::from_ascii(link(n + 1)).unwrap();
                Record::from_rdata(Name::from_ascii(link(n)).unwrap(), 60, RData::CNAME(CNAME(to)))
            })
            .collect();
        records.extend(match question.kind {
            RecordType::A => (1..=40).map(|n| v4(&link(12), n)).collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        Reply::Records(records)
    });
    let found = Host::of(&server).dns.ask("shop.vault.example").unwrap();
    assert_eq!(found.len(), 40);
    assert!(found.contains(&"192.0.2.40:0".parse().unwrap()));
    let asked = server.asked();
    assert!(asked.iter().any(|question| question.tcp), "{asked:?}");
    assert!(asked.iter().all(|question| question.edns), "{asked:?}");
}

#[test]
fn both_families_are_found_those_of_ipv4_first() {
    let server = Server::start(|question| match question.kind {
        RecordType::A => Reply::Records(vec![v4(&question.name, 1)]),
        _ => Reply::Records(vec![v6(&question.name, 2)]),
    });
    let host = Host::of(&server);
    assert_eq!(host.dns.ask("both.example"), Ok(addresses(&["192.0.2.1", "2001:db8::2"])));
    let server = Server::start(|question| match question.kind {
        RecordType::AAAA => Reply::Records(vec![v6(&question.name, 2)]),
        _ => Reply::Records(Vec::new()),
    });
    assert_eq!(Host::of(&server).dns.ask("six.example"), Ok(addresses(&["2001:db8::2"])));
}

#[test]
fn a_name_that_does_not_exist_or_has_no_address_does_not_resolve() {
    for reply in [|| Reply::Code(ResponseCode::NXDomain), || Reply::Records(Vec::new())] {
        let server = Server::start(move |_| reply());
        let said = refused(&Host::of(&server), "none.example");
        assert!(said.contains("none.example does not resolve; check its spelling"), "{said}");
    }
}

#[test]
fn a_server_that_fails_or_refuses_has_no_answer_and_is_not_taken_for_a_name_that_does_not_exist() {
    for code in [ResponseCode::ServFail, ResponseCode::Refused, ResponseCode::NotImp] {
        let server = Server::start(move |_| Reply::Code(code));
        let said = refused(&Host::of(&server), "bad.example");
        assert!(said.contains("the name server has no answer about bad.example"), "{code}: {said}");
    }
    // One family fails, the other has nothing: nobody knows.
    let server = Server::start(|question| match question.kind {
        RecordType::A => Reply::Code(ResponseCode::ServFail),
        _ => Reply::Records(Vec::new()),
    });
    let said = refused(&Host::of(&server), "half.example");
    assert!(said.contains("has no answer"), "{said}");
    let said = refused(&Host::new("search example\n", "", 53), "bad.example");
    assert!(said.contains("has no answer") && said.contains("/etc/resolv.conf"), "{said}");
}

#[test]
fn silence_ends_with_the_limit_and_says_so() {
    let server = Server::start(|_| Reply::Nothing);
    let mut host = Host::of(&server);
    host.dns.limit = Duration::from_millis(200);
    let said = refused(&host, "mute.example");
    assert!(said.contains("no answer from the name server about mute.example within 4 s"), "{said}");
    assert!(!server.asked().is_empty());
}

#[test]
fn an_entry_of_the_hosts_file_wins_and_nobody_is_asked() {
    let server = Server::start(only_v4);
    let hosts =
        "# caf\u{e9}\n::1 both\n198.51.100.7 Vault.Example alias_1 # vault.comment\n198.51.100.8 both\nx y\n";
    let host = Host::new("nameserver 127.0.0.1\n", hosts, server.address.port());
    assert_eq!(host.dns.ask("vault.example"), Ok(addresses(&["198.51.100.7"])));
    assert_eq!(host.dns.ask("alias_1"), Ok(addresses(&["198.51.100.7"])));
    assert_eq!(host.dns.ask("both"), Ok(addresses(&["198.51.100.8", "::1"])));
    assert_eq!(host.dns.ask("203.0.113.9"), Ok(addresses(&["203.0.113.9"])));
    assert_eq!(host.dns.ask("localhost"), Ok(addresses(&["127.0.0.1", "::1"])));
    assert_eq!(server.asked(), []);
    assert_eq!(host.dns.ask("vault.comment"), Ok(addresses(&["192.0.2.1"])));
}

#[test]
fn files_are_read_anew_for_each_look_up() {
    let server = Server::start(only_v4);
    let host = Host::new("", "", server.address.port());
    assert!(refused(&host, "a.example").contains("has no answer"));
    std::fs::write(host.home.path().join("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    assert_eq!(host.dns.ask("a.example"), Ok(addresses(&["192.0.2.1"])));
    std::fs::write(host.home.path().join("hosts"), "198.51.100.7 a.example\n").unwrap();
    assert_eq!(host.dns.ask("a.example"), Ok(addresses(&["198.51.100.7"])));
}

#[test]
fn the_search_list_and_ndots_are_followed() {
    let server = Server::start(|question| match question.name.as_str() {
        "web.shop.svc.cluster.local." | "a.b.example." => only_v4(question),
        _ => Reply::Code(ResponseCode::NXDomain),
    });
    let conf = "nameserver 127.0.0.1\nsearch none.example svc.cluster.local\noptions ndots:2\n";
    let host = Host::new(conf, "", server.address.port());
    let order = |name: &str| {
        server.asked.lock().clear();
        let found = host.dns.ask(name);
        let of_v4 = server.asked().into_iter().filter(|question| question.kind == RecordType::A);
        (found.is_ok(), of_v4.map(|question| question.name).collect::<Vec<_>>())
    };
    let searched = ["web.shop.none.example.", "web.shop.svc.cluster.local."].map(str::to_owned);
    assert_eq!(order("web.shop"), (true, searched.to_vec()));
    assert_eq!(order("a.b.example"), (true, vec!["a.b.example.".to_owned()]));
    assert_eq!(order("web.shop."), (false, vec!["web.shop.".to_owned()]));
    let all = ["x.y.z.", "x.y.z.none.example.", "x.y.z.svc.cluster.local."].map(str::to_owned);
    assert_eq!(order("x.y.z"), (false, all.to_vec()));
}

#[test]
fn a_domain_of_the_search_list_whose_server_fails_does_not_hide_the_name() {
    let server = Server::start(|question| match question.name.as_str() {
        "a.example." => only_v4(question),
        name if name.ends_with(".broken.example.") => Reply::Code(ResponseCode::ServFail),
        _ => Reply::Code(ResponseCode::NXDomain),
    });
    let conf = "nameserver 127.0.0.1\nsearch broken.example\noptions ndots:5\n";
    let host = Host::new(conf, "", server.address.port());
    assert_eq!(host.dns.ask("a.example"), Ok(addresses(&["192.0.2.1"])));
    assert!(refused(&host, "b.example").contains("has no answer"));
}

#[test]
fn of_several_servers_one_that_answers_is_enough() {
    let good = Server::start(only_v4);
    let port = good.address.port();
    let failing =
        Server::on(bind(Ipv4Addr::new(127, 0, 0, 2), port).unwrap(), |_| Reply::Code(ResponseCode::ServFail));
    let silent = Server::on(bind(Ipv4Addr::new(127, 0, 0, 3), port).unwrap(), |_| Reply::Nothing);
    let conf = "nameserver 127.0.0.3\nnameserver 127.0.0.2\nnameserver 127.0.0.1\n";
    let host = Host::new(conf, "", port);
    assert_eq!(host.dns.ask("a.example"), Ok(addresses(&["192.0.2.1"])));
    assert!(!silent.asked().is_empty());
    drop(failing);
}

#[test]
fn a_server_that_knows_no_edns_is_asked_without() {
    let server = Server::start(|question| match question.edns {
        true => Reply::Code(ResponseCode::FormErr),
        false => only_v4(question),
    });
    assert_eq!(Host::of(&server).dns.ask("old.example"), Ok(addresses(&["192.0.2.1"])));
}

#[test]
fn an_answer_about_another_name_is_not_an_address_of_this_one() {
    let server = Server::start(|question| match question.kind {
        RecordType::A => Reply::Records(vec![v4("other.example.", 9)]),
        _ => Reply::Records(Vec::new()),
    });
    let found = Host::of(&server).dns.ask("mine.example");
    assert!(found.is_err(), "{found:?}");
}
