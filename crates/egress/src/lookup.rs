//! Look-ups of host names: each holds sockets and memory for as long as a name server is silent, so it gets a thread of
//! its own, of which there are few, and each asker a share.

mod dns;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyward_core::{Code, Error, Priority, Result};
use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Look-ups that run at one time.
const THREADS: usize = 8;
/// How many of them one asker may hold.
const SHARE: usize = 2;
/// Longest wait for an answer, of which the turn is a part. Shorter than the deadline of a request, so that the name
/// server is named and not the vault.
const LIMIT: Duration = Duration::from_secs(4);
/// What the resolver needs also without optimisation.
const STACK: usize = 1024 * 1024;

/// What asks a name server, which may block.
type Ask = dyn Fn(&str) -> Answer + Send + Sync;

/// The pool. Cheap to clone; one for each process.
#[derive(Clone)]
pub(crate) struct Lookups(Arc<Pool>);

struct Pool {
    ask: Box<Ask>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Names being looked up, by whom, and who else waits for the answer.
    running: HashMap<String, Running>,
    /// In the order of their arrival.
    queue: Vec<Job>,
}

struct Running {
    asker: Asker,
    waiting: Vec<oneshot::Sender<Answer>>,
}

struct Job {
    name: String,
    asker: Asker,
    sender: oneshot::Sender<Answer>,
    started: Arc<AtomicBool>,
}

/// Whose share it is; `None` is the process itself, whose names an administrator chose.
type Asker = Option<Arc<str>>;
type Answer = std::result::Result<Vec<SocketAddr>, Failure>;

/// Why there is no address; what was said is a detail for those who look closer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    /// A name server says that there is no such name, or no address of it.
    NoSuchName(String),
    /// The name servers fail, refuse, answer nonsense or cannot be reached.
    NoAnswer(String),
    /// No name server has answered within [`LIMIT`].
    Silent,
    /// It could not even be asked.
    Local(String),
}

impl Default for Lookups {
    fn default() -> Self {
        let dns = dns::Dns::default();
        Self::new(move |name| dns.ask(name))
    }
}

impl Lookups {
    fn new(ask: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        Self(Arc::new(Pool { ask: Box::new(ask), state: Mutex::default() }))
    }

    /// The addresses of a name, at least one. The asker is that of the current [`Priority`]; one that stops waiting
    /// gives its turn up.
    ///
    /// # Errors
    /// `KW_DNS` when the name has no address, when there is no answer in time, or when no thread can be started.
    pub(crate) async fn of(&self, name: &str) -> Result<Vec<SocketAddr>> {
        let (sender, answer) = oneshot::channel();
        let started = Arc::new(AtomicBool::new(false));
        let job = Job {
            name: name.to_owned(),
            asker: Priority::current().asker(),
            sender,
            started: Arc::clone(&started),
        };
        self.0.take(job);
        match tokio::time::timeout(LIMIT, answer).await {
            Ok(Ok(Ok(addresses))) if !addresses.is_empty() => Ok(addresses),
            Ok(Ok(Ok(_))) => Err(no_address(name)),
            Ok(Ok(Err(failure))) => Err(failed(name, &failure)),
            Ok(Err(_)) => Err(Error::new(
                Code::Dns,
                format!("the name {name} cannot be looked up: no thread can be started on this node"),
            )),
            Err(_) => Err(silent(name, started.load(Ordering::Acquire))),
        }
    }
}

impl Pool {
    fn take(self: &Arc<Self>, job: Job) {
        let mut state = self.state.lock();
        // Whoever has stopped waiting would only be in the way.
        state.queue.retain(|job| !job.sender.is_closed());
        state.queue.push(job);
        self.start(&mut state);
    }

    /// Starts as many look-ups as there are places and shares for.
    fn start(self: &Arc<Self>, state: &mut State) {
        while let Some(name) = state.next() {
            let pool = Arc::clone(self);
            let asked = name.clone();
            let thread = std::thread::Builder::new().name("lookup".to_owned()).stack_size(STACK);
            if let Err(error) = thread.spawn(move || pool.run(asked)) {
                tracing::warn!(%error, "no thread can be started to look up a name");
                // Dropped with those who wait: they are told.
                state.running.remove(&name);
            }
        }
    }

    /// Looks a name up, then others that wait for a place.
    fn run(self: Arc<Self>, name: String) {
        let answer = (self.ask)(&name);
        let mut state = self.state.lock();
        let waiting = state.running.remove(&name).map(|running| running.waiting).unwrap_or_default();
        for sender in waiting {
            let _ = sender.send(answer.clone());
        }
        self.start(&mut state);
    }
}

impl State {
    /// Moves what may start to the running: the asker with the fewest places first, then whoever came first.
    fn next(&mut self) -> Option<String> {
        self.queue.retain(|job| !job.sender.is_closed());
        self.join();
        if self.running.len() >= THREADS {
            return None;
        }
        let held = |asker: &Asker| self.running.values().filter(|running| running.asker == *asker).count();
        let (at, _) = self
            .queue
            .iter()
            .enumerate()
            .map(|(at, job)| (at, held(&job.asker)))
            .filter(|(at, held)| self.queue.get(*at).is_some_and(|job| job.asker.is_none()) || *held < SHARE)
            .min_by_key(|(at, held)| (*held, *at))?;
        let Job { name, asker, sender, started } = self.queue.remove(at);
        started.store(true, Ordering::Release);
        self.running.insert(name.clone(), Running { asker, waiting: vec![sender] });
        Some(name)
    }

    /// Whoever asks for a name that is being looked up waits for that answer.
    fn join(&mut self) {
        let (mut rest, running) = (Vec::with_capacity(self.queue.len()), &mut self.running);
        for job in self.queue.drain(..) {
            match running.get_mut(&job.name) {
                Some(running) => {
                    job.started.store(true, Ordering::Release);
                    running.waiting.retain(|sender| !sender.is_closed());
                    running.waiting.push(job.sender);
                }
                None => rest.push(job),
            }
        }
        self.queue = rest;
    }
}

fn no_address(name: &str) -> Error {
    Error::new(
        Code::Dns,
        format!("the name {name} does not resolve; check its spelling and the cluster's DNS"),
    )
}

fn failed(name: &str, failure: &Failure) -> Error {
    match failure {
        Failure::NoSuchName(said) => no_address(name).detail(said),
        Failure::NoAnswer(said) => {
            let message = format!(
                "the name server has no answer about {name} (it is silent, fails or refuses); check the cluster's DNS \
                 and /etc/resolv.conf"
            );
            Error::new(Code::Dns, message).detail(said)
        }
        Failure::Silent => silent(name, true),
        Failure::Local(said) => {
            let message = format!(
                "the name {name} cannot be looked up: this process lacks what it takes; check its limits of \
                 descriptors and memory"
            );
            Error::new(Code::Dns, message).detail(said)
        }
    }
}

fn silent(name: &str, started: bool) -> Error {
    let seconds = LIMIT.as_secs();
    let message = if started {
        format!(
            "no answer from the name server about {name} within {seconds} s; check the cluster's DNS and network \
             policies for port 53"
        )
    } else {
        format!(
            "the name {name} was not looked up within {seconds} s: other look-ups of the same identity wait for the \
             name server; check the cluster's DNS"
        )
    };
    Error::new(Code::Dns, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyward_core::Urgency;
    use std::collections::HashSet;
    use std::sync::mpsc;
    use tokio::task::JoinHandle;

    /// A name server that answers names beginning with `hang` when told to, and notes what it was asked.
    struct Server {
        lookups: Lookups,
        asked: Arc<Mutex<Vec<String>>>,
        release: mpsc::Sender<()>,
    }

    impl Server {
        fn new() -> Self {
            let asked: Arc<Mutex<Vec<String>>> = Arc::default();
            let (release, released) = mpsc::channel();
            let released = Mutex::new(released);
            let noted = Arc::clone(&asked);
            let lookups = Lookups::new(move |name| {
                noted.lock().push(name.to_owned());
                if name.starts_with("hang") {
                    // Ends with the test as well.
                    let _ = released.lock().recv();
                }
                match name.strip_prefix("none") {
                    Some(_) => Ok(Vec::new()),
                    None => Ok(vec!["192.0.2.1:0".parse().unwrap()]),
                }
            });
            Self { lookups, asked, release }
        }

        fn ask(&self, asker: Option<&str>, name: &str) -> JoinHandle<Result<Vec<SocketAddr>>> {
            let (lookups, name) = (self.lookups.clone(), name.to_owned());
            let priority = match asker {
                Some(asker) => Priority::new(Urgency::Start).asked_by(asker.into()),
                None => Priority::new(Urgency::Start),
            };
            tokio::spawn(async move { priority.scope(lookups.of(&name)).await })
        }

        async fn until_asked(&self, count: usize) {
            while self.asked.lock().len() < count {
                tokio::task::yield_now().await;
            }
        }

        fn running(&self) -> usize {
            self.lookups.0.state.lock().running.len()
        }
    }

    #[tokio::test]
    async fn an_asker_whose_names_hang_holds_its_share_and_nobody_else() {
        let server = Server::new();
        let hanging: Vec<_> = (0..16).map(|n| server.ask(Some("bad"), &format!("hang-{n}"))).collect();
        server.until_asked(SHARE).await;
        for n in 0..20 {
            let found = server.ask(Some("good"), &format!("fine-{n}")).await.unwrap();
            assert_eq!(found.unwrap(), ["192.0.2.1:0".parse().unwrap()]);
        }
        assert_eq!(server.running(), SHARE);
        let hung = server.asked.lock().iter().filter(|name| name.starts_with("hang")).count();
        assert_eq!(hung, SHARE);
        hanging.iter().for_each(JoinHandle::abort);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_started() {
        let server = Server::new();
        let kept = server.ask(Some("a"), "hang-kept");
        let other = server.ask(Some("a"), "hang-other");
        server.until_asked(2).await;
        let given_up = server.ask(Some("a"), "given-up");
        let wanted = server.ask(Some("a"), "wanted");
        tokio::task::yield_now().await;
        given_up.abort();
        assert!(given_up.await.unwrap_err().is_cancelled());
        server.release.send(()).unwrap();
        server.release.send(()).unwrap();
        for answer in [kept, other, wanted] {
            assert!(answer.await.unwrap().is_ok());
        }
        let asked: HashSet<_> = server.asked.lock().iter().cloned().collect();
        assert!(!asked.contains("given-up"), "{asked:?}");
    }

    #[tokio::test]
    async fn one_name_is_looked_up_once_for_all_who_ask_meanwhile() {
        let server = Server::new();
        let first = server.ask(Some("a"), "hang-shared");
        server.until_asked(1).await;
        let others: Vec<_> = (0..30).map(|n| server.ask(Some(&format!("b{n}")), "hang-shared")).collect();
        tokio::task::yield_now().await;
        server.release.send(()).unwrap();
        for answer in others.into_iter().chain([first]) {
            assert!(answer.await.unwrap().is_ok());
        }
        assert_eq!(server.asked.lock().len(), 1);
    }

    #[tokio::test]
    async fn no_more_than_the_pools_threads_run_and_the_rest_follows() {
        let server = Server::new();
        let all: Vec<_> =
            (0..40).map(|n| server.ask(Some(&format!("asker-{}", n % 20)), &format!("hang-{n}"))).collect();
        server.until_asked(THREADS).await;
        assert_eq!(server.running(), THREADS);
        for _ in 0..40 {
            server.release.send(()).unwrap();
        }
        for answer in all {
            assert!(answer.await.unwrap().is_ok());
        }
        assert_eq!(server.running(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_after_its_own_limit_with_its_own_code() {
        let server = Server::new();
        let hanging: Vec<_> = (0..SHARE).map(|n| server.ask(Some("a"), &format!("hang-{n}"))).collect();
        server.until_asked(SHARE).await;
        let waiting = server.ask(Some("a"), "later");
        for answer in hanging {
            let error = answer.await.unwrap().unwrap_err();
            assert_eq!(error.code(), Code::Dns);
            assert!(error.message().contains("no answer from the name server about hang-"), "{error}");
            assert!(error.message().contains("within 4 s"), "{error}");
        }
        let error = waiting.await.unwrap().unwrap_err();
        assert_eq!(error.code(), Code::Dns);
        assert!(error.message().contains("was not looked up within 4 s"), "{error}");
    }

    #[tokio::test]
    async fn the_process_itself_has_no_share_and_an_empty_answer_is_no_address() {
        let server = Server::new();
        let own: Vec<_> = (0..5).map(|n| server.ask(None, &format!("hang-{n}"))).collect();
        server.until_asked(5).await;
        for _ in 0..5 {
            server.release.send(()).unwrap();
        }
        for answer in own {
            assert!(answer.await.unwrap().is_ok());
        }
        let error = server.ask(None, "none").await.unwrap().unwrap_err();
        assert!(error.message().contains("does not resolve"), "{error}");
    }
}
