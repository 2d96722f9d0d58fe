//! A node with two volumes, of which one goes through the phases and the other must never notice.

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use keyward_emulator::{Effect, Fault};
use keyward_proto::csi::v1::ProbeRequest;
use keyward_proto::secrets::v1::secret_service_client::SecretServiceClient;
use keyward_proto::secrets::v1::{GetSecretRequest, RefreshSecretRequest};
use keyward_test_support::kubelet::PodVolume;
use keyward_test_support::node::{DRIVER, Node, PATIENCE, VAULT};
use rustix::fs::{AtFlags, unlinkat};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use serde_json::json;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tower::service_fn;

use crate::BINARY;
use crate::reader::{FILES, Reader, Seen, look};
use crate::tracer::{Counted, Line, Shot, Traced, What};

/// Kubelet tries again after this, instead of its own half second.
const AGAIN: Duration = Duration::from_millis(20);
/// A call that a failure left without an answer is given up after this; kubelet waits longer.
const CALL: Duration = Duration::from_secs(15);

/// What is under way when a process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Phase {
    Start,
    Publish,
    Rotate,
    /// A rotation for which the volume has no room yet.
    Grow,
    Repair,
    Unpublish,
    /// Two rotations within 100 ms, and two seconds more; afterwards the vault is away. A walk of its own.
    Twice,
}

impl Phase {
    pub(crate) const ALL: [Self; 6] =
        [Self::Start, Self::Publish, Self::Rotate, Self::Grow, Self::Repair, Self::Unpublish];

    /// Whether the volume is there when the phase begins.
    fn begins_published(self) -> bool {
        self != Self::Publish
    }
}

/// Which of the reader's volumes goes through the phases.
const SUBJECT: usize = 1;

pub(crate) struct Rig {
    node: Node,
    driver: Option<Traced>,
    witness: PodVolume,
    subject: PodVolume,
    published: bool,
    generation: u64,
    /// Its values take more room than a volume of small ones has.
    large: bool,
    reader: Reader,
    /// What is mounted below kubelet's directory when no volume is.
    mounts: Vec<String>,
    /// How often the driver was started.
    pub(crate) starts: usize,
}

/// Three files of one object, so that they agree in every generation.
pub(crate) fn objects(secret: &str) -> String {
    let from = format!("https://{VAULT}/secrets/{secret}");
    let object =
        |file: &&str| json!({"from": from, "name": file.replace('/', "-"), "file": file, "key": "/n"});
    json!(FILES.iter().map(object).collect::<Vec<_>>()).to_string()
}

/// The value of which the files hold `content`.
pub(crate) fn value(content: &str) -> String {
    json!({"n": content}).to_string()
}

/// What the files of generation `number` hold.
pub(crate) fn content(number: u64, large: bool) -> String {
    format!("g{number:06}{}", ".".repeat(if large { 6_000 } else { 0 }))
}

/// Fewer lines to write, each of which is a call.
pub(crate) fn quiet(node: &Node) {
    node.configure("");
    let config = node.etc().join("config.yaml");
    let text = std::fs::read_to_string(&config).unwrap().replace("level: debug", "level: warn");
    std::fs::write(config, text).unwrap();
}

/// What is mounted below kubelet's directory, volumes too.
pub(crate) fn mounted(node: &Node) -> Vec<String> {
    let below = format!("{}/", node.kubelet.dir().display());
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut paths: Vec<_> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|path| path.starts_with(&below))
        .map(str::to_owned)
        .collect();
    paths.sort();
    paths
}

/// Names in the directory of the driver's records.
pub(crate) fn records(node: &Node) -> Vec<String> {
    let directory = node.kubelet.dir().join("state/volumes");
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Names in the directory of what is kept for a restart.
pub(crate) fn kept(node: &Node) -> Vec<String> {
    let directory = node.kubelet.dir().join("state/snapshot");
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

impl Rig {
    /// `None` without the right to mount.
    pub(crate) async fn start() -> Option<Self> {
        let node = Node::start(BINARY).await?;
        quiet(&node);
        node.vault().set_secret("doc", value(&content(0, false)));
        let witness = node.volume_of(&node.pod("witness"), &objects("doc"), &[]);
        let subject = node.volume_of(&node.pod("subject"), &objects("doc"), &[("grpc", "true")]);
        let reader = Reader::start(vec![node.kubelet.target(&witness), node.kubelet.target(&subject)]);
        let mut rig = Self {
            node,
            driver: None,
            witness,
            subject,
            published: false,
            generation: 0,
            large: false,
            reader,
            mounts: Vec::new(),
            starts: 0,
        };
        rig.alive().await;
        rig.mounts = mounted(&rig.node);
        rig.publish_at_last(&rig.witness.clone()).await;
        Some(rig)
    }

    fn spawn(&self, shot: Option<Shot>) -> Traced {
        let line = self.node.command();
        let (program, log) = (&line.program, &line.log);
        let variables = &[("KUBECONFIG", line.kubeconfig.as_path())];
        Traced::spawn(&Line { program, arguments: &line.arguments, variables, log }, shot)
    }

    /// How often a reader looked.
    pub(crate) fn looks(&self) -> u64 {
        self.reader.looks()
    }

    /// One walk through a phase with a shot somewhere in it, and what kubelet does afterwards. Says what was counted.
    pub(crate) async fn walk(&mut self, phase: Phase, shot: Shot) -> Counted {
        let subject = self.subject.clone();
        if phase == Phase::Grow {
            self.make_small().await;
        }
        if phase == Phase::Publish {
            self.unpublish_at_last(&subject).await;
            self.published = false;
        }
        if phase.begins_published() && !self.published {
            self.publish_at_last(&subject).await;
            self.published = true;
        }
        let mut answer = Ok(());
        match phase {
            Phase::Start => {
                self.driver = None;
                if shot.nth % 2 == 1 {
                    self.rotate();
                }
                self.starts += 1;
                self.driver = Some(self.spawn(Some(shot)));
                self.until("ready", async |rig| rig.is_ready().await).await;
            }
            Phase::Publish => {
                self.arm(shot);
                answer = self.call(self.node.publish(&subject)).await;
            }
            Phase::Rotate | Phase::Grow => {
                self.large = phase == Phase::Grow;
                self.arm(shot);
                self.rotate();
                self.until("rotated", async |rig| rig.is_current()).await;
            }
            Phase::Repair => {
                self.tamper();
                self.arm(shot);
                answer = self.call(self.node.publish(&subject)).await;
            }
            Phase::Twice => self.rotate_twice(shot).await,
            Phase::Unpublish => {
                self.published = false;
                self.arm(shot);
                answer = self.call(self.node.kubelet.unpublish(&subject)).await;
            }
        }
        let driver = self.driver.as_ref().unwrap();
        let counted = driver.disarm();
        let died = driver.is_ended() || (shot.what == What::Kill && counted.fired.is_some());
        self.check_answer(phase, died, &answer, &counted);
        self.go_on(phase, shot, died, answer.is_ok()).await;
        self.check(phase, shot, &counted);
        counted
    }

    fn check_answer(&self, phase: Phase, died: bool, answer: &Result<(), Status>, counted: &Counted) {
        let seen = look(&self.node.kubelet.target(&self.subject));
        match (phase, answer) {
            (Phase::Publish, Ok(())) => {
                assert!(matches!(seen, Ok(Seen::Whole(_))), "published, but {seen:?}");
            }
            (Phase::Publish, Err(status)) if !died && is_refusal(status) => {
                assert_eq!(seen, Ok(Seen::NotMounted), "{status:?} at {counted:?}");
            }
            (Phase::Unpublish, Ok(())) => assert_eq!(seen, Ok(Seen::NotMounted)),
            _ => {}
        }
    }

    /// What the container's restart and kubelet do next.
    async fn go_on(&mut self, phase: Phase, shot: Shot, died: bool, answered: bool) {
        let (witness, subject) = (self.witness.clone(), self.subject.clone());
        if phase == Phase::Twice {
            self.outage().await;
        }
        self.alive().await;
        if died || phase == Phase::Start {
            self.publish_at_last(&witness).await;
        }
        match phase {
            // A pod may go before its volume was ever published.
            Phase::Publish if !answered && shot.nth.is_multiple_of(2) => {}
            Phase::Unpublish => {}
            _ => {
                self.publish_at_last(&subject).await;
                self.published = true;
            }
        }
        self.reader.tampered(false);
        if died || shot.nth.is_multiple_of(8) {
            self.rotate();
        }
        self.settle().await;
        if self.published && phase != Phase::Unpublish {
            self.look_up().await;
        }
        if matches!(phase, Phase::Publish | Phase::Unpublish) {
            self.unpublish_at_last(&subject).await;
            self.published = false;
        }
    }

    fn check(&self, phase: Phase, shot: Shot, counted: &Counted) {
        let about = || format!("{phase:?} {shot:?} {counted:?}\n{}", self.log());
        if let Some(bad) = self.reader.bad() {
            panic!("a reader saw what nobody should see: {bad}\n{}", about());
        }
        let here: Vec<_> =
            [Some(&self.witness), self.published.then_some(&self.subject)].into_iter().flatten().collect();
        let mut mounts = self.mounts.clone();
        mounts.extend(here.iter().map(|volume| self.node.kubelet.target(volume).display().to_string()));
        mounts.sort();
        assert_eq!(mounted(&self.node), mounts, "what is mounted: {}", about());
        let mut ids: Vec<_> = here.iter().map(|volume| volume.id()).collect();
        ids.sort();
        assert_eq!(records(&self.node), ids, "what is remembered: {}", about());
        let kept = kept(&self.node);
        // A volume whose snapshot could not be written has none for a while, and its pod is told.
        let told = matches!(shot.what, What::Fail(_));
        let fits = if told { kept.iter().all(|id| ids.contains(id)) } else { kept == ids };
        assert!(fits, "what is kept: {kept:?} of {ids:?}: {}", about());
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.node.command().log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(80)..].join("\n")
    }

    fn arm(&self, shot: Shot) {
        self.driver.as_ref().unwrap().arm(shot);
    }

    fn rotate(&mut self) {
        self.generation += 1;
        self.node.vault().rotate_secret("doc", value(&content(self.generation, self.large)));
    }

    /// Two versions, each asked for and seen at once, and then some more of the driver's life.
    async fn rotate_twice(&mut self, shot: Shot) {
        self.settle().await;
        self.arm(shot);
        // By two names of the object, since one name is refreshed once in a while only.
        for name in ["a", "c"] {
            self.rotate();
            // The driver may end while it is asked.
            let _ = timeout(CALL, self.ask(name, true)).await;
            self.until("seen", async |rig| rig.is_current()).await;
        }
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end && !self.driver.as_ref().unwrap().is_dying() {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// The vault is away, Entra is not: whatever the order of start, proof and republish, nobody is given anything older
    /// than what the files have shown.
    async fn outage(&mut self) {
        let newest = self.reader.newest(SUBJECT);
        self.node
            .emulator
            .faults()
            .set(Fault::on("secrets.*", Effect::Status { status: 503, retry_after: None }));
        self.alive().await;
        self.give_no_less(&newest).await;
        for volume in [self.witness.clone(), self.subject.clone()] {
            self.publish_at_last(&volume).await;
        }
        let asked = || self.node.emulator.counters().with_status("secrets.get", 503);
        let target = asked() + 2;
        let end = Instant::now() + PATIENCE;
        while asked() < target {
            assert!(Instant::now() < end, "the vault is not asked\n{}", self.log());
            sleep(Duration::from_millis(5)).await;
        }
        self.give_no_less(&newest).await;
        self.node.emulator.faults().clear_all();
    }

    /// The volume's socket gives nothing older than `newest`, if it gives anything.
    async fn give_no_less(&self, newest: &str) {
        let end = Instant::now() + PATIENCE;
        let given = loop {
            if let Ok(Some(given)) = timeout(CALL, self.ask("a", false)).await {
                break given;
            }
            assert!(Instant::now() < end, "the volume's socket gives nothing\n{}", self.log());
            sleep(AGAIN).await;
        };
        assert!(given.as_str() >= newest, "{given:.7} is given, {newest:.7} was delivered\n{}", self.log());
    }

    /// A volume of small values, with no more room than those take.
    async fn make_small(&mut self) {
        let subject = self.subject.clone();
        self.unpublish_at_last(&subject).await;
        (self.published, self.large) = (false, false);
        self.rotate();
        self.settle().await;
    }

    /// Until both volumes have what the vault has. Kubelet republishes meanwhile, more often than it really does: a
    /// driver that only ended later has no token.
    async fn settle(&mut self) {
        let end = Instant::now() + 2 * PATIENCE;
        while !self.is_current() {
            assert!(
                Instant::now() < end,
                "not current ({}): {}\n{}",
                self.generation,
                self.seen(),
                self.log()
            );
            self.alive().await;
            let (witness, subject) = (self.witness.clone(), self.subject.clone());
            self.publish_at_last(&witness).await;
            if self.published {
                self.publish_at_last(&subject).await;
            }
            let soon = Instant::now() + Duration::from_secs(3);
            while !self.is_current() && Instant::now() < soon {
                sleep(Duration::from_millis(2)).await;
            }
        }
    }

    fn seen(&self) -> String {
        let seen = [&self.witness, &self.subject].map(|volume| look(&self.node.kubelet.target(volume)));
        format!("{seen:.60?}")
    }

    /// A container's root takes the mark of the commit away.
    fn tamper(&self) {
        self.reader.tampered(true);
        let target = self.node.kubelet.target(&self.subject);
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let view = open_tree(rustix::fs::CWD, target, flags).unwrap();
        let (none, read_only) = (MountAttrFlags::empty(), MountAttrFlags::MOUNT_ATTR_RDONLY);
        keyward_mount::set_attributes(
            std::os::fd::AsFd::as_fd(&view),
            keyward_mount::Reach::Mount,
            none,
            read_only,
        )
        .unwrap();
        unlinkat(&view, "..data", AtFlags::empty()).unwrap();
    }

    async fn call(&self, call: impl Future<Output = Result<(), Status>>) -> Result<(), Status> {
        timeout(CALL, call).await.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))
    }

    async fn publish_at_last(&mut self, volume: &PodVolume) {
        let end = Instant::now() + PATIENCE;
        while let Err(status) = self.call(self.node.publish(volume)).await {
            assert!(Instant::now() < end, "not published at last: {status:?}\n{}", self.log());
            self.alive().await;
            sleep(AGAIN).await;
        }
        // What was taken away is there again, too.
        let seen = look(&self.node.kubelet.target(volume));
        assert!(matches!(seen, Ok(Seen::Whole(_))), "published, but {seen:?}\n{}", self.log());
    }

    async fn unpublish_at_last(&mut self, volume: &PodVolume) {
        let end = Instant::now() + PATIENCE;
        // Kubelet goes by its own directory, and not by what it called before.
        while self.node.kubelet.target(volume).parent().unwrap().exists() {
            let Err(status) = self.call(self.node.kubelet.unpublish(volume)).await else { break };
            assert!(Instant::now() < end, "not unpublished at last: {status:?}\n{}", self.log());
            self.alive().await;
            sleep(AGAIN).await;
        }
    }

    /// Lets the container start again when a process ended.
    async fn alive(&mut self) {
        let end = Instant::now() + 2 * PATIENCE;
        loop {
            assert!(Instant::now() < end, "the driver does not start\n{}", self.log());
            match &self.driver {
                Some(driver) if !driver.is_dying() => {
                    if self.is_ready().await {
                        return;
                    }
                }
                Some(driver) => {
                    while !driver.is_ended() {
                        assert!(Instant::now() < end, "one process outlives the other\n{}", self.log());
                        sleep(Duration::from_millis(1)).await;
                    }
                    self.driver = None;
                    continue;
                }
                None => {
                    self.starts += 1;
                    self.driver = Some(self.spawn(None));
                }
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    async fn is_ready(&self) -> bool {
        let ready = async {
            let mut client = self.node.kubelet.identity(DRIVER).await.ok()?;
            client.probe(ProbeRequest {}).await.ok()?.into_inner().ready
        };
        timeout(CALL, ready).await.is_ok_and(|ready| ready == Some(true))
    }

    fn is_current(&self) -> bool {
        let current = |volume| {
            look(&self.node.kubelet.target(volume)) == Ok(Seen::Whole(content(self.generation, self.large)))
        };
        current(&self.witness) && (!self.published || current(&self.subject) || self.is_gone(&self.subject))
    }

    fn is_gone(&self, volume: &PodVolume) -> bool {
        !self.node.kubelet.target(volume).exists()
    }

    /// Waits until something is so, or the driver ends.
    async fn until(&self, what: &str, is_so: impl AsyncFn(&Self) -> bool) {
        let end = Instant::now() + 2 * PATIENCE;
        while !is_so(self).await {
            if self.driver.as_ref().is_none_or(Traced::is_dying) {
                return;
            }
            assert!(Instant::now() < end, "not {what} in time: {}\n{}", self.seen(), self.log());
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// What the volume's socket gives a pod, perhaps after a read of its own.
    async fn ask(&self, name: &str, afresh: bool) -> Option<String> {
        // By descriptor: the path is longer than an address may be.
        let root = std::fs::File::open(self.node.kubelet.target(&self.subject)).ok()?;
        let socket = PathBuf::from(format!("/proc/self/fd/{}/keyward.sock", root.as_raw_fd()));
        let connect = service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connect).await.ok()?;
        let (mut client, name) = (SecretServiceClient::new(channel), name.to_owned());
        let secret = if afresh {
            client.refresh_secret(RefreshSecretRequest { name }).await.ok()?.into_inner().secret
        } else {
            client
                .get_secret(GetSecretRequest { name, version: String::new() })
                .await
                .ok()?
                .into_inner()
                .secret
        };
        String::from_utf8(secret?.value.to_vec()).ok()
    }

    /// The volume's socket answers a pod.
    async fn look_up(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            if timeout(CALL, self.ask("a", false)).await.is_ok_and(|given| given.is_some()) {
                return;
            }
            assert!(Instant::now() < end, "the volume's socket does not answer\n{}", self.log());
            sleep(AGAIN).await;
        }
    }
}

/// A final answer of the driver's own, and no lost connection: nothing is mounted then.
pub(crate) fn is_refusal(status: &Status) -> bool {
    let may_go_on = matches!(
        status.code(),
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Unavailable
            | Code::ResourceExhausted
            | Code::Aborted
    );
    !may_go_on && status.message().contains("KW_")
}
