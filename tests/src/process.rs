//! Any program with a log: `kvd` with odd arguments, scripts.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::member::binary;
use crate::wait;

/// A process that leads a process group of its own, with standard output and error in a file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in `folder`, where its log is kept as `name`.
    ///
    /// Errors: when it cannot be started.
    pub fn start(mut command: Command, folder: &Path, name: &str) -> Result<Process> {
        let path = folder.join(name);
        let log = File::create(&path)?;
        let child = command
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        Ok(Process { child, log: path })
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log holds `text`.
    ///
    /// Errors: when it does not within `deadline`, or the process ended without it.
    pub async fn wait_log(&mut self, text: &str, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            let ended = self.child.try_wait()?;
            let log = self.log();
            if log.contains(text) {
                return Ok(());
            }
            if let Some(status) = ended {
                bail!("ended with {status} before it said {text:?}:\n{log}");
            }
            ensure!(
                Instant::now() < end,
                "did not say {text:?} in {deadline:?}:\n{log}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends a signal to the process and all it has started.
    ///
    /// Errors: when none of them runs.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("a process ID")?;
        kill_process_group(pid, signal)?;
        Ok(())
    }

    /// Waits until the process ends.
    ///
    /// Errors: when it still runs after `deadline`.
    pub async fn wait_exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let log = self.log.clone();
        let child = std::sync::Mutex::new(&mut self.child);
        wait::until("the end of a process", deadline, || async {
            let mut child = child.lock().expect("nobody panics with it");
            let ended = child.try_wait()?;
            ended.with_context(|| fs::read_to_string(&log).unwrap_or_default())
        })
        .await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // What it has started may already be gone.
            drop(self.signal(Signal::KILL));
            drop(self.child.wait());
        }
    }
}

/// A command that runs `kvd` with `arguments`. `KVD_BIN`, which it would take for a setting, is left
/// out of its environment.
///
/// Errors: when there is no such binary.
pub fn kvd(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary("kvd")?);
    command.env_remove("KVD_BIN").args(arguments);
    Ok(command)
}

/// Runs `kvctl` with `input` on its standard input.
///
/// Errors: when it cannot be started.
pub fn kvctl(arguments: &[&str], input: &str) -> Result<Output> {
    let mut command = Command::new(binary("kvctl")?);
    run_with(command.args(arguments).env_remove("KVCTL_BIN"), input)
}

/// Runs a command to its end with `input` on its standard input.
///
/// Errors: when it cannot be started.
pub fn run_with(command: &mut Command, input: &str) -> Result<Output> {
    use std::io::Write;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {command:?}"))?;
    // A command that reads nothing may have ended before it is written.
    drop(
        child
            .stdin
            .take()
            .context("its standard input")?
            .write_all(input.as_bytes()),
    );
    Ok(child.wait_with_output()?)
}
