//! One `kvd` process.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kvd_api::pb::etcdserverpb::cluster_client::ClusterClient;
use kvd_api::pb::etcdserverpb::kv_client::KvClient;
use kvd_api::pb::etcdserverpb::maintenance_client::MaintenanceClient;
use kvd_api::pb::etcdserverpb::{HashKvRequest, HashKvResponse, StatusRequest, StatusResponse};
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::{Channel, Endpoint};

use crate::ports::Port;
use crate::wait;

/// The line that a member logs when clients may come.
pub const READY: &str = "ready to serve client requests";

/// Finds the binary `name`: by its variable, or in the build folder of this test.
///
/// Errors: when it is in neither.
pub fn binary(name: &str) -> Result<PathBuf> {
    let variable = format!("{}_BIN", name.to_uppercase());
    if let Some(path) = std::env::var_os(&variable) {
        return Ok(path.into());
    }
    let test = std::env::current_exe()?;
    let folder = test
        .ancestors()
        .nth(2)
        .context("a test lies in target/PROFILE/deps")?;
    let path = folder.join(name);
    ensure!(
        path.exists(),
        "{} is not built: run `cargo test --workspace`, or `cargo build -p {name}` first, or set \
         {variable}",
        path.display()
    );
    Ok(path)
}

/// A member: its folder, ports and, while it runs, its process.
#[derive(Debug)]
pub struct Member {
    name: String,
    client: Port,
    peer: Port,
    folder: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    under: Vec<String>,
    client_scheme: &'static str,
    peer_scheme: &'static str,
    child: Option<Child>,
    starts: usize,
}

impl Member {
    /// A member `name` with its data in `folder`, not started.
    ///
    /// Errors: when no port is free.
    pub fn new(name: &str, folder: &Path) -> Result<Member> {
        fs::create_dir_all(folder)?;
        Ok(Member {
            name: name.to_owned(),
            client: Port::reserve()?,
            peer: Port::reserve()?,
            folder: folder.to_owned(),
            arguments: Vec::new(),
            variables: Vec::new(),
            under: Vec::new(),
            client_scheme: "http",
            peer_scheme: "http",
            child: None,
            starts: 0,
        })
    }

    /// The member's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where clients reach it.
    pub fn client_url(&self) -> String {
        format!(
            "{}://127.0.0.1:{}",
            self.client_scheme,
            self.client.number()
        )
    }

    /// `HOST:PORT` of the client port.
    pub fn client_address(&self) -> String {
        format!("127.0.0.1:{}", self.client.number())
    }

    /// Where peers reach it.
    pub fn peer_url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.peer_scheme, self.peer.number())
    }

    /// `HOST:PORT` of the peer port.
    pub fn peer_address(&self) -> String {
        format!("127.0.0.1:{}", self.peer.number())
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// The process ID while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Makes the URLs `https` where asked. To be called before any URL was given out.
    pub fn use_tls(&mut self, client: bool, peer: bool) {
        let scheme = |tls| if tls { "https" } else { "http" };
        self.client_scheme = scheme(client);
        self.peer_scheme = scheme(peer);
    }

    /// Adds arguments for the next starts.
    pub fn add_arguments(&mut self, arguments: &[&str]) {
        self.arguments
            .extend(arguments.iter().map(|argument| (*argument).to_owned()));
    }

    /// Sets a variable of the environment for the next starts.
    pub fn set_variable(&mut self, name: &str, value: impl std::fmt::Display) {
        self.variables.push((name.to_owned(), value.to_string()));
    }

    /// Starts it from now on by a program that becomes it, such as `nsenter` with its arguments.
    pub fn run_under(&mut self, words: Vec<String>) {
        self.under = words;
    }

    /// The command line, without the binary, for the given `--initial-cluster`.
    pub fn command_line(&self, initial_cluster: &str) -> Vec<String> {
        let mut line: Vec<String> = [
            ("--name", self.name.clone()),
            ("--data-dir", self.data_dir().display().to_string()),
            ("--listen-client-urls", self.client_url()),
            ("--advertise-client-urls", self.client_url()),
            ("--listen-peer-urls", self.peer_url()),
            ("--initial-advertise-peer-urls", self.peer_url()),
            ("--initial-cluster", initial_cluster.to_owned()),
            ("--initial-cluster-state", "new".to_owned()),
            ("--initial-cluster-token", "test".to_owned()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
        line.extend(self.arguments.iter().cloned());
        line
    }

    /// Starts the process; see [`Member::wait_ready`] for when it serves.
    ///
    /// Errors: when it runs already or cannot be started.
    pub fn start(&mut self, initial_cluster: &str) -> Result<()> {
        ensure!(self.child.is_none(), "{} runs already", self.name);
        self.starts += 1;
        let log = File::create(self.log_path())?;
        let mut words = self.under.iter().map(Into::into).collect::<Vec<_>>();
        words.push(binary("kvd")?.into_os_string());
        let child = Command::new(&words[0])
            .args(&words[1..])
            .args(self.command_line(initial_cluster))
            .env_remove("KVD_BIN")
            .envs(self.variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting kvd")?;
        self.child = Some(child);
        Ok(())
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join(format!("log.{}", self.starts))
    }

    /// What the latest process has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Waits until the member serves clients.
    ///
    /// Errors: when it ends or does not get there within `deadline`; the log's end is quoted.
    pub async fn wait_ready(&mut self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            let log = self.log();
            if log.contains(READY) {
                return Ok(());
            }
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?,
                None => bail!("{} was not started", self.name),
            };
            if let Some(status) = ended {
                bail!(
                    "{} ended with {status} before it was ready:\n{}",
                    self.name,
                    tail(&log)
                );
            }
            if Instant::now() >= end {
                bail!(
                    "{} was not ready within {deadline:?}:\n{}",
                    self.name,
                    tail(&log)
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Sends a signal to the process.
    ///
    /// Errors: when it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self
            .pid()
            .with_context(|| format!("{} does not run", self.name))?;
        let pid = Pid::from_raw(i32::try_from(pid)?).context("a process ID is not zero")?;
        kill_process(pid, signal)?;
        Ok(())
    }

    /// Ends the process as a crash would (SIGKILL) and waits for its end.
    ///
    /// Errors: when it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self
            .child
            .take()
            .with_context(|| format!("{} does not run", self.name))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Waits until the process ends by itself.
    ///
    /// Errors: when it still runs after `deadline`.
    pub async fn wait_exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let end = Instant::now() + deadline;
        loop {
            let Some(child) = &mut self.child else {
                bail!("{} does not run", self.name)
            };
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            if Instant::now() >= end {
                bail!(
                    "{} did not end within {deadline:?}:\n{}",
                    self.name,
                    tail(&self.log())
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Stops the process with SIGTERM and returns how it ended.
    ///
    /// Errors: when it takes longer than `deadline`.
    pub async fn terminate(&mut self, deadline: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait_exit(deadline).await
    }

    /// A connection to the client port.
    ///
    /// Errors: when nothing listens.
    pub async fn channel(&self) -> Result<Channel> {
        let endpoint = Endpoint::from_shared(self.client_url())?
            .connect_timeout(Duration::from_secs(1))
            .tcp_nodelay(true);
        Ok(endpoint.connect().await?)
    }

    /// A client of the KV service.
    ///
    /// Errors: when nothing listens.
    pub async fn kv(&self) -> Result<KvClient<Channel>> {
        Ok(KvClient::new(self.channel().await?).max_decoding_message_size(usize::MAX))
    }

    /// A client of the Maintenance service.
    ///
    /// Errors: when nothing listens.
    pub async fn maintenance(&self) -> Result<MaintenanceClient<Channel>> {
        Ok(MaintenanceClient::new(self.channel().await?))
    }

    /// A client of the Cluster service.
    ///
    /// Errors: when nothing listens.
    pub async fn cluster(&self) -> Result<ClusterClient<Channel>> {
        Ok(ClusterClient::new(self.channel().await?))
    }

    /// The member's status.
    ///
    /// Errors: when it does not answer within two seconds.
    pub async fn status(&self) -> Result<StatusResponse> {
        let ask = async {
            Ok(self
                .maintenance()
                .await?
                .status(StatusRequest {})
                .await?
                .into_inner())
        };
        tokio::time::timeout(Duration::from_secs(2), ask)
            .await
            .context("no status in 2 s")?
    }

    /// The hash of its content at `revision` (zero: now).
    ///
    /// Errors: when it does not answer.
    pub async fn hash_kv(&self, revision: i64) -> Result<HashKvResponse> {
        let request = HashKvRequest { revision };
        Ok(self
            .maintenance()
            .await?
            .hash_kv(request)
            .await?
            .into_inner())
    }

    /// Runs `kvctl` against this member and returns its output.
    ///
    /// Errors: when it cannot be started.
    pub fn kvctl(&self, arguments: &[&str]) -> Result<std::process::Output> {
        Ok(Command::new(binary("kvctl")?)
            .env_remove("KVCTL_BIN")
            .args(["--endpoints", &self.client_url()])
            .args(arguments)
            .stdin(Stdio::null())
            .output()?)
    }

    /// Waits until the member answers a linearizable status with a leader.
    ///
    /// Errors: after `deadline`.
    pub async fn wait_leader(&self, deadline: Duration) -> Result<u64> {
        wait::until("a leader", deadline, || async {
            let status = self.status().await?;
            ensure!(status.leader != 0, "{} knows no leader", self.name);
            Ok(status.leader)
        })
        .await
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended already; then there is nothing to kill.
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            eprintln!("---- end of {}'s log\n{}", self.name, tail(&self.log()));
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
