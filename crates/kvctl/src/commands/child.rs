//! Commands that kvctl runs for the user, and the signals that end kvctl.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{self, Failure};
use crate::go_text::error::os_error;
use crate::go_text::quote::quote;

/// Why a command failed, in the words of Go's `os/exec`.
#[derive(Debug)]
pub(super) struct Why {
    pub(super) text: String,
    /// The exit code to pass on.
    pub(super) code: u8,
}

/// A command that shares our streams.
pub(super) fn command(words: &[OsString]) -> Command {
    let (program, args) = match words {
        [program, args @ ..] => (program.clone(), args),
        [] => (OsString::new(), &[][..]),
    };
    let mut command = Command::new(program);
    // As in etcdctl, the command does not read our standard input.
    command.args(args).stdin(std::process::Stdio::null());
    command
}

/// Runs a command to its end.
pub(super) async fn run(mut command: Command, words: &[OsString]) -> Result<(), Why> {
    judge(command.status().await, words)
}

/// What the end of a command means.
pub(super) fn judge(status: io::Result<ExitStatus>, words: &[OsString]) -> Result<(), Why> {
    let status = status.map_err(|err| not_started(&err, words))?;
    if status.success() {
        return Ok(());
    }
    // Go's exit status is -1 after a signal, of which the parent sees the last byte.
    Err(match (status.code(), status.signal()) {
        (Some(code), _) => Why {
            text: format!("exit status {code}"),
            code: u8::try_from(code).unwrap_or(u8::MAX),
        },
        (None, Some(number)) => Why {
            text: format!("signal: {}", signal_name(number)),
            code: u8::MAX,
        },
        (None, None) => Why {
            text: status.to_string(),
            code: failure::ERROR,
        },
    })
}

fn not_started(err: &io::Error, words: &[OsString]) -> Why {
    use std::os::unix::ffi::OsStrExt as _;
    let name = words
        .first()
        .map(|word| word.as_bytes())
        .unwrap_or_default();
    let text = match err.kind() {
        io::ErrorKind::NotFound if !name.contains(&b'/') => {
            let name = quote(name);
            format!("exec: {name}: executable file not found in $PATH")
        }
        _ => {
            let name = String::from_utf8_lossy(name);
            let why = os_error(err);
            format!("fork/exec {name}: {why}")
        }
    };
    Why {
        text,
        code: failure::ERROR,
    }
}

/// Go's name of a signal.
fn signal_name(number: i32) -> String {
    match number {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        6 => "aborted",
        9 => "killed",
        11 => "segmentation fault",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        _ => return format!("signal {number}"),
    }
    .to_owned()
}

/// Which signal asks us to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// From the terminal, which sends it to a command that we run as well.
    Interrupt,
    Terminate,
}

/// The signals that ask for an end, from now on.
pub(super) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|err| Failure::error(format!("cannot listen to signals: {err}")))
        };
        Ok(Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Waits for one.
    pub(super) async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.interrupt.recv() => Asked::Interrupt,
            _ = self.terminate.recv() => Asked::Terminate,
        }
    }
}
