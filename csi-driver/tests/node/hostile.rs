//! What somebody would try who has taken over the broker. Each attempt says `ok` or how it failed.

use std::fs::{File, read_dir};
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use keyward_csi_driver::mounts::{Detached, Mounts, Place, Socket, Tmpfs};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{FsOpenFlags, MountFlags, OpenTreeFlags, UnmountFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Pid, Signal};

/// How an answer begins to what nobody has written: it must not pass for a failed attempt.
const UNKNOWN: &str = "unknown attempt";

/// The broker, taken over.
pub(crate) struct Hostile {
    mounts: Mounts,
    waiting: Option<Detached>,
    root: Option<OwnedFd>,
}

impl Hostile {
    pub(crate) fn new(mounts: Mounts) -> Self {
        Self { mounts, waiting: None, root: None }
    }

    pub(crate) fn act(&mut self, words: &[&str]) -> String {
        match self.attempt(words) {
            Ok(text) => format!("ok {text}").trim_end().to_owned(),
            Err(error) => error,
        }
    }

    fn attempt(&mut self, words: &[&str]) -> Result<String, String> {
        let pid = || words[1].parse().ok().and_then(Pid::from_raw).ok_or_else(|| "no pid".to_owned());
        match words[0] {
            // What it may do.
            "channel" => Ok(self.mounts.socket_number().to_string()),
            "self" => Ok(std::process::id().to_string()),
            "read" => std::fs::read_to_string(words[1]).map_err(said),
            "write" => std::fs::write(words[1], "content").map(|()| String::new()).map_err(said),
            "list" => Ok(names(&File::open(words[1]).map_err(said)?).join(",")),
            "create" => {
                let detached =
                    self.mounts.create(&Tmpfs { bytes: 8192, mode: 0o755, gid: None }).map_err(said)?;
                self.root = Some(detached.directory().map_err(said)?);
                self.waiting = Some(detached);
                Ok(String::new())
            }
            "commit" => {
                let place = Place::new(words[1], words[2]).map_err(said)?;
                self.root = Some(self.waiting.take().ok_or("nothing waits")?.commit(&place).map_err(said)?);
                Ok(String::new())
            }
            "fill" => {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
                let root = self.root.as_ref().ok_or("no root")?;
                let mut file =
                    File::from(openat(root, words[1], flags, Mode::from_raw_mode(0o444)).map_err(said)?);
                file.write_all(words[2].as_bytes()).map(|()| String::new()).map_err(said)
            }
            "unmount-volume" => {
                let place = Place::new(words[1], words[2]).map_err(said)?;
                self.mounts.unmount(&place).map(|done| done.to_string()).map_err(said)
            }
            "threads" => {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(said)?;
                runtime.block_on(async {
                    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(said)?;
                    let address = listener.local_addr().map_err(said)?;
                    let (ours, theirs) =
                        tokio::join!(tokio::net::TcpStream::connect(address), listener.accept());
                    ours.and(theirs.map(drop)).map_err(said)?;
                    tokio::net::lookup_host("localhost:1").await.map_err(said)?.next().ok_or("no address")?;
                    tokio::fs::read_to_string("/proc/self/status").await.map_err(said)?;
                    Ok(String::new())
                })
            }
            // Through the descriptors that it holds.
            "parents" => {
                let start =
                    words.get(1).map(|path| File::open(path).map(OwnedFd::from)).transpose().map_err(said)?;
                let start = start.as_ref().or(self.root.as_ref()).ok_or("no root")?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let mut here = start.try_clone().map_err(said)?;
                for _ in 0..20 {
                    here = openat(&here, "..", flags, Mode::empty()).map_err(said)?;
                }
                Ok(names(&here).join(","))
            }
            "listen" => {
                let listening = self.mounts.listen(Socket::Csi).map_err(said)?;
                let client = UnixStream::connect(format!("/proc/self/fd/{}", listening.file.as_raw_fd()));
                let mut client = client.map_err(said)?;
                client.write_all(b"ping").map_err(said)?;
                let mut ping = [0; 4];
                let (mut server, _) = listening.listener.accept().map_err(said)?;
                server.read_exact(&mut ping).map_err(said)?;
                let flags = OFlags::PATH | OFlags::CLOEXEC;
                match openat(&listening.file, "..", flags, Mode::empty()) {
                    Err(_) => Ok(String::new()),
                    Ok(_) => Err("the socket's file leads to its directory".to_owned()),
                }
            }
            // What it must not be able to do.
            "mount" => done(rustix::mount::mount("tmpfs", "/", "tmpfs", MountFlags::empty(), None)),
            "fsopen" => done(rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)),
            "open_tree" => done(rustix::mount::open_tree(CWD, "/", OpenTreeFlags::OPEN_TREE_CLONE)),
            "umount" => done(rustix::mount::unmount("/proc", UnmountFlags::DETACH)),
            "pivot_root" => done(rustix::process::pivot_root(".", ".")),
            "chroot" => done(rustix::process::chroot("/proc")),
            "execve" => Err(said(Command::new("/proc/self/exe").exec())),
            "fork" => done(Command::new("/proc/self/exe").spawn()),
            "ptrace" => {
                done(nix::sys::ptrace::attach(nix::unistd::Pid::from_raw(pid()?.as_raw_nonzero().get())))
            }
            "kill" => done(rustix::process::kill_process(pid()?, Signal::WINCH)),
            "kill-0" => done(rustix::process::test_kill_process(pid()?)),
            "pidfd" => done(rustix::process::pidfd_open(pid()?, rustix::process::PidfdFlags::empty())),
            "setns" => {
                let ns = File::open("/proc/self/ns/net").map_err(said)?;
                done(rustix::thread::move_into_link_name_space(ns.as_fd(), None))
            }
            "unshare" => done(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER)),
            "packet" => done(rustix::net::socket(
                rustix::net::AddressFamily::PACKET,
                rustix::net::SocketType::RAW,
                None,
            )),
            "netlink" => done(rustix::net::socket(
                rustix::net::AddressFamily::NETLINK,
                rustix::net::SocketType::RAW,
                None,
            )),
            "dumpable" => done(nix::sys::prctl::set_dumpable(true)),
            "setuid" => done(nix::unistd::setuid(nix::unistd::Uid::from_raw(1000))),
            "capabilities" => {
                let all = rustix::thread::CapabilitySet::SYS_ADMIN;
                done(rustix::thread::set_capabilities(
                    None,
                    rustix::thread::CapabilitySets { effective: all, permitted: all, inheritable: all },
                ))
            }
            // To a container that works with it: a volume that it may write.
            "pass-on" => {
                let (here, _there) = UnixStream::pair().map_err(said)?;
                let rights = [self.root.as_ref().ok_or("no root")?.as_fd()];
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut ancillary = SendAncillaryBuffer::new(&mut space);
                ancillary.push(SendAncillaryMessage::ScmRights(&rights));
                done(sendmsg(&here, &[IoSlice::new(b"x")], &mut ancillary, SendFlags::NOSIGNAL))
            }
            "own" => {
                let file = File::open("/proc/self/status").map_err(said)?;
                done(self.mounts.own(file.as_fd(), 0, 0))
            }
            unknown => Err(format!("{UNKNOWN} {unknown}")),
        }
    }
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn done<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<String, String> {
    result.map(|_| String::new()).map_err(said)
}

fn names(directory: &impl AsFd) -> Vec<String> {
    let path = format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd());
    let mut names: Vec<_> = read_dir(path)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names
}
