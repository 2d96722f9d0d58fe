//! What the tests of the two processes start: the mounter, and two brokers for it. Both end with their connection to
//! the test. Never shipped.

#![expect(clippy::unwrap_used, reason = "a helper of a test panics as the test does")]

use std::ffi::OsString;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use keyward_csi_driver::confine::{self, Needs};
use keyward_csi_driver::mounter::{self, Settings};
use keyward_csi_driver::mounts::Mounts;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

#[path = "hostile.rs"]
mod hostile;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let path = |index: usize| PathBuf::from(&arguments[index]);
    match arguments[0].to_str() {
        Some("mounter") => mounter::run(Settings {
            driver_name: "csi.keyward.dev".to_owned(),
            kubelet_dir: path(1).join("kubelet"),
            endpoint: path(3).join("csi.sock"),
            registration_socket: Some(path(1).join("registry/keyward-reg.sock")),
            state_dir: path(1).join("state"),
            allow_swap: false,
            broker_args: vec![arguments[2].clone(), path(1).join("control.sock").into(), path(1).into()],
        }),
        Some(broker @ ("lend" | "hasty")) => {
            if broker == "hasty" {
                // Before anything else, so that the mounter hears of it as early as can be.
                let mounter = rustix::process::getppid().unwrap();
                rustix::process::kill_process(mounter, rustix::process::Signal::TERM).unwrap();
            }
            let control = UnixStream::connect(path(1)).unwrap();
            mounter::release_signals().unwrap();
            lend(control)
        }
        Some("hostile") => {
            let (control, home) = (UnixStream::connect(path(1)).unwrap(), path(2));
            let needs = Needs {
                read: vec![home.join("config"), PathBuf::from("/etc/hosts"), home.join("missing")],
                write: vec![home.join("state")],
            };
            let mounts = keyward_csi_driver::mounts::take_channel().unwrap();
            confine::enter(&needs, mounts.socket_number()).unwrap();
            obey(control, mounts)
        }
        _ => ExitCode::from(64),
    }
}

/// Hands the socket to the mounter to the test, which then is the broker.
fn lend(mut control: UnixStream) -> ExitCode {
    let input = std::io::stdin();
    let rights = [input.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&rights)));
    sendmsg(&control, &[IoSlice::new(b"x")], &mut ancillary, SendFlags::empty()).unwrap();
    // The byte to exit with, or the end of the test.
    let mut code = [0];
    match control.read(&mut code) {
        Ok(1) => ExitCode::from(code[0]),
        _ => ExitCode::SUCCESS,
    }
}

/// Does what the test says, a line at a time, and says what came of it.
fn obey(control: UnixStream, mounts: Mounts) -> ExitCode {
    let mut answers = control.try_clone().unwrap();
    let lines = BufReader::new(control).lines();
    let mut hostile = hostile::Hostile::new(mounts);
    for line in lines {
        let line = line.unwrap();
        let words: Vec<_> = line.split(' ').collect();
        let answer = hostile.act(&words);
        writeln!(answers, "{}", answer.replace('\n', " ")).unwrap();
    }
    ExitCode::SUCCESS
}
