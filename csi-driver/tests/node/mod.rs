//! A node of one's own: a mount namespace, kubelet's directories in it, and the mounter.

#![allow(dead_code, reason = "each test uses its part")]

use std::io::{BufRead, BufReader, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use keyward_csi_driver::mounts::{Mounts, Place};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

pub(crate) const POD: &str = "0f3c9a52-7a55-4d1c-b5a5-5a4b1b0c7c11";

pub(crate) struct Node {
    pub(crate) home: PathBuf,
    pub(crate) mounter: Child,
    pub(crate) control: UnixStream,
    directory: Option<tempfile::TempDir>,
}

impl Node {
    /// A node with a mounter whose broker is of that kind; `None` where mounting is not permitted.
    pub(crate) fn start(broker: &str) -> Option<Self> {
        Self::start_where(broker, |_| {})
    }

    /// The same where kubelet's directories were changed before the mounter starts.
    pub(crate) fn start_where(broker: &str, change: impl FnOnce(&Path)) -> Option<Self> {
        let directory = prepared()?;
        change(directory.path());
        let plugin = directory.path().join("plugin");
        Some(Self::run(broker, &plugin, directory))
    }

    /// What a mounter says that is started where kubelet's directories are changed so that it must not start.
    pub(crate) fn refused_where(change: impl FnOnce(&Path)) -> Option<(ExitStatus, String)> {
        let directory = prepared()?;
        let home = directory.path();
        change(home);
        let _control = UnixListener::bind(home.join("control.sock")).unwrap();
        let output = command("lend", &home.join("plugin"), home).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        rustix::mount::unmount(home, rustix::mount::UnmountFlags::DETACH).unwrap();
        Some((output.status, said))
    }

    fn run(broker: &str, plugin: &Path, directory: tempfile::TempDir) -> Self {
        let home = directory.path().to_owned();
        let control = home.join("control.sock");
        let _ = std::fs::remove_file(&control);
        let listener = UnixListener::bind(control).unwrap();
        let mounter = command(broker, plugin, &home).spawn().unwrap();
        let (control, _) = listener.accept().unwrap();
        Self { home, mounter, control, directory: Some(directory) }
    }

    /// Another driver on the same node, after this one has ended.
    pub(crate) fn restart(self) -> (Self, Mounts) {
        let plugin = self.home.join("plugin");
        self.restart_with_plugin(&plugin)
    }

    /// The same, with its socket in another directory.
    pub(crate) fn restart_with_plugin(mut self, plugin: &Path) -> (Self, Mounts) {
        self.mounter.wait().unwrap();
        let directory = self.directory.take().unwrap();
        let node = Self::run("lend", plugin, directory);
        let mounts = Mounts::new(node.socket());
        (node, mounts)
    }

    /// A node on which the test is the broker.
    pub(crate) fn lent() -> Option<(Self, Mounts)> {
        let node = Self::start("lend")?;
        let mounts = Mounts::new(node.socket());
        Some((node, mounts))
    }

    /// The broker's socket, from a broker that lends it.
    pub(crate) fn socket(&self) -> OwnedFd {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let data = &mut [IoSliceMut::new(&mut byte)];
        recvmsg(&self.control, data, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
        let socket = ancillary.drain().find_map(|part| match part {
            RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
            _ => None,
        });
        socket.unwrap()
    }

    /// Lets the broker do something, and returns what it says of it.
    pub(crate) fn tell(&mut self, line: &str) -> String {
        writeln!(self.control, "{line}").unwrap();
        let mut answer = String::new();
        BufReader::new(&self.control).read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    /// A place for which kubelet has made the directory.
    pub(crate) fn place(&self, volume: &str) -> Place {
        self.place_of("csi.keyward.dev", volume)
    }

    /// The same for a volume of another driver.
    pub(crate) fn place_of(&self, driver: &str, volume: &str) -> Place {
        let place = Place::new(POD, volume).unwrap();
        let directory = self.target(&place).parent().unwrap().to_owned();
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("vol_data.json"), format!("{{\"driverName\":\"{driver}\"}}")).unwrap();
        place
    }

    pub(crate) fn target(&self, place: &Place) -> PathBuf {
        place.target(&self.home.join("kubelet"))
    }

    /// Changes how what is mounted at a path passes on, in the mounter's own mount namespace.
    pub(crate) fn change_inside(&self, path: &Path, propagation: MountPropagationFlags) {
        let path = path.to_owned();
        self.inside(move || mount_change(&path, propagation).unwrap());
    }

    /// Does something in the mounter's own mount namespace.
    pub(crate) fn inside(&self, work: impl FnOnce() + Send + 'static) {
        let mounter = self.mounter.id();
        let enter = move || {
            // A thread that shares its directories with others may not change namespaces.
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let inside = std::fs::File::open(format!("/proc/{mounter}/ns/mnt")).unwrap();
            nix::sched::setns(inside, CloneFlags::CLONE_NEWNS).unwrap();
            work();
        };
        std::thread::spawn(enter).join().unwrap();
    }

    /// Ends the broker with an exit code, and waits for the mounter.
    pub(crate) fn end(&mut self, code: u8) -> ExitStatus {
        self.control.write_all(&[code]).unwrap();
        self.mounter.wait().unwrap()
    }

    /// Lines of the mount table at a path, topmost last.
    pub(crate) fn mounts_at(&self, path: &Path) -> Vec<String> {
        let table = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let at = |line: &&str| line.split(' ').nth(4) == path.to_str();
        table.lines().filter(at).map(str::to_owned).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.control.shutdown(std::net::Shutdown::Both);
        let _ = self.mounter.wait();
        // The directory is a mount of this thread's, which goes with the thread.
        if self.directory.is_some() {
            let _ = rustix::mount::unmount(&self.home, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// A directory of a node's own, on a tmpfs, with kubelet's `pods` on a shared one.
fn prepared() -> Option<tempfile::TempDir> {
    let directory = tempfile::tempdir().unwrap();
    if !namespace() {
        return None;
    }
    let home = directory.path().to_owned();
    tmpfs(&home);
    for name in ["kubelet/pods", "plugin", "registry", "config"] {
        std::fs::create_dir_all(home.join(name)).unwrap();
    }
    std::fs::write(home.join("config/keyward.yaml"), "first").unwrap();
    let pods = home.join("kubelet/pods");
    tmpfs(&pods);
    mount_change(&pods, MountPropagationFlags::SHARED).unwrap();
    Some(directory)
}

fn command(broker: &str, plugin: &Path, home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyward-csi-driver-victim"));
    command.arg("mounter").args([home.as_os_str(), broker.as_ref(), plugin.as_os_str()]);
    command
}

/// Gives this thread a mount namespace of its own.
#[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
pub(crate) fn namespace() -> bool {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNS) {
        assert!(std::env::var_os("KEYWARD_REQUIRE_ROOT").is_none(), "mounting is not permitted: {error}");
        eprintln!("not run: mounting is not permitted ({error})");
        return false;
    }
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    true
}

pub(crate) fn tmpfs(path: &Path) {
    mount("tmpfs", path, "tmpfs", MountFlags::empty(), c"size=64m").unwrap();
}
