//! A container: one process with its own root, in its pod's network.

use std::collections::BTreeMap;
use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};

/// What a container is started from.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The network namespace.
    pub netns: String,
    /// The pod's name, which is its host name.
    pub hostname: String,
    /// An empty folder to build its root in.
    pub root: PathBuf,
    /// Files for `/etc`.
    pub etc: PathBuf,
    /// The image's programs.
    pub image: PathBuf,
    /// User, group and further group.
    pub user: (u32, u32, Option<u32>),
    /// Whether only volumes can be written.
    pub read_only: bool,
    /// Folder, place, and whether it can be written.
    pub mounts: Vec<(PathBuf, String, bool)>,
    /// All variables.
    pub environment: BTreeMap<String, String>,
    /// The command.
    pub command: Vec<String>,
    /// Where its output goes.
    pub log: PathBuf,
}

/// A container that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    ended: bool,
    handle: Handle,
}

/// Where commands in a container go.
#[derive(Clone, Debug)]
pub struct Handle {
    /// The process, which is the command's own: nothing in between forks.
    pub pid: u32,
    environment: BTreeMap<String, String>,
    user: (u32, u32, Option<u32>),
}

const SCRIPT: &str = include_str!("container.sh");

impl Recipe {
    /// Starts it.
    ///
    /// Errors: when its process cannot be started. What goes wrong later is in its log.
    pub fn start(&self) -> Result<Running> {
        std::fs::create_dir_all(&self.root)?;
        let log = File::options().create(true).append(true).open(&self.log)?;
        // Its user may open /dev/stderr, as where that is a pipe.
        log.set_permissions(Permissions::from_mode(0o666))?;
        let (user, group, groups) = self.user;
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.netns))
            .args(["unshare", "--mount", "--uts", "sh", "-c", SCRIPT, "podsim"])
            .args([
                &self.root as &Path,
                Path::new(&self.hostname),
                &self.etc,
                &self.image,
            ])
            .args([user.to_string(), group.to_string()])
            .arg(groups.map(|group| group.to_string()).unwrap_or_default())
            .arg(if self.read_only { "yes" } else { "no" });
        for (source, target, writable) in &self.mounts {
            command.arg(source).arg(target.trim_start_matches('/'));
            command.arg(if *writable { "rw" } else { "ro" });
        }
        let child = command
            .arg("--")
            .args(&self.command)
            .env_clear()
            .envs(&self.environment)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("starting a container")?;
        let pid = child.id().context("it has just been started")?;
        Ok(Running {
            child,
            ended: false,
            handle: Handle {
                pid,
                environment: self.environment.clone(),
                user: self.user,
            },
        })
    }
}

impl Handle {
    /// A command in the container, as `kubectl exec` gives it: its files, network, user and
    /// variables.
    pub fn exec(&self, words: &[String]) -> Command {
        let mut command = Command::new("nsenter");
        let (user, group, groups) = self.user;
        command
            .arg(format!("--target={}", self.pid))
            .args(["--mount", "--uts", "--net", "setpriv"])
            .arg(format!("--reuid={user}"))
            .arg(format!("--regid={group}"))
            .arg(match groups {
                Some(group) => format!("--groups={group}"),
                None => "--clear-groups".to_owned(),
            })
            .arg("--")
            .args(words)
            .env_clear()
            .envs(&self.environment)
            .current_dir("/")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }
}

impl Running {
    /// Where commands in it go.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Waits for its end.
    ///
    /// Errors: when it cannot be waited for.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.ended = true;
        Ok(status)
    }

    /// SIGTERM, and SIGKILL for it and all it started when `grace` is over.
    ///
    /// Errors: when it cannot be waited for.
    pub async fn stop(&mut self, grace: Duration) -> Result<ExitStatus> {
        if self.ended {
            return self.wait().await;
        }
        signal_process(self.handle.pid, Signal::TERM);
        if let Ok(status) = tokio::time::timeout(grace, self.wait()).await {
            return status;
        }
        self.kill().await
    }

    /// SIGKILL for it and all it started.
    ///
    /// Errors: when it cannot be waited for.
    pub async fn kill(&mut self) -> Result<ExitStatus> {
        self.kill_group();
        self.wait().await
    }

    fn kill_group(&self) {
        if self.ended {
            return;
        }
        if let Some(pid) = i32::try_from(self.handle.pid).ok().and_then(Pid::from_raw) {
            // Nobody may be left of it.
            let _nobody = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_group();
    }
}

/// Sends a signal to a process that may be gone.
pub fn signal_process(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _nobody = kill_process(pid, signal);
    }
}
