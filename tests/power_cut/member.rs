//! One `kvd` process over a folder, with or without the tracing library.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kvd_api::pb::etcdserverpb::kv_client::KvClient;
use kvd_api::pb::etcdserverpb::maintenance_client::MaintenanceClient;
use kvd_api::pb::etcdserverpb::{HashKvRequest, HashKvResponse};
use kvd_tests::member::{READY, binary};
use kvd_tests::ports::Port;
use rustix::process::{Pid, Signal, kill_process};
use tonic::transport::{Channel, Endpoint};

const READY_DEADLINE: Duration = Duration::from_secs(60);
const EXIT_DEADLINE: Duration = Duration::from_secs(20);

/// Longest time that a traced sync takes.
const SYNC_MICROS: &str = "1500";

/// The peer URL that every process advertises: it is part of the member's identity, and nobody
/// connects to it.
const PEER_URL: &str = "http://127.0.0.1:2380";

/// Where a traced process writes its trace.
pub struct Tracing {
    pub library: PathBuf,
    pub root: PathBuf,
    pub file: PathBuf,
    pub lock: PathBuf,
}

pub struct Process {
    child: Child,
    client: u16,
    log: PathBuf,
}

/// The ports of one process after another.
pub struct Ports {
    client: Port,
    peer: Port,
}

impl Ports {
    pub fn reserve() -> Result<Ports> {
        Ok(Ports {
            client: Port::reserve()?,
            peer: Port::reserve()?,
        })
    }
}

impl Process {
    /// Starts `kvd` with its data in `data_dir` and waits until it serves.
    ///
    /// Errors: when it ends before, or does not get there.
    pub async fn start(
        engine: &str,
        data_dir: &Path,
        ports: &Ports,
        log: &Path,
        tracing: Option<&Tracing>,
    ) -> Result<Process> {
        let output = File::create(log)?;
        let mut command = Command::new(binary("kvd")?);
        let client_url = format!("http://127.0.0.1:{}", ports.client.number());
        let peer_url = format!("http://127.0.0.1:{}", ports.peer.number());
        command
            .args(["--name", "m0", "--data-dir"])
            .arg(data_dir)
            .args([
                "--listen-client-urls",
                &client_url,
                "--advertise-client-urls",
                &client_url,
            ])
            .args([
                "--listen-peer-urls",
                &peer_url,
                "--initial-advertise-peer-urls",
                PEER_URL,
            ])
            .args(["--initial-cluster", &format!("m0={PEER_URL}")])
            .args([
                "--initial-cluster-token",
                "power-cut",
                "--storage-engine",
                engine,
            ])
            .args(["--snapshot-count", "50", "--snapshot-catchup-entries", "5"])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        if let Some(tracing) = tracing {
            command
                .env("LD_PRELOAD", &tracing.library)
                .env("KVD_TRACE_ROOT", &tracing.root)
                .env("KVD_TRACE_FILE", &tracing.file)
                .env("KVD_TRACE_LOCK", &tracing.lock)
                .env("KVD_TRACE_SYNC_MICROS", SYNC_MICROS);
        }
        let child = command.spawn().context("starting kvd")?;
        let mut process = Process {
            child,
            client: ports.client.number(),
            log: log.to_owned(),
        };
        process.wait_ready().await?;
        Ok(process)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let end = Instant::now() + READY_DEADLINE;
        loop {
            let log = self.log();
            if log.contains(READY) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "kvd ended with {status} before it was ready:\n{}",
                    self.log()
                );
            }
            ensure!(
                Instant::now() < end,
                "kvd is not ready after {READY_DEADLINE:?}:\n{log}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn channel(&self) -> Result<Channel> {
        let url = format!("http://127.0.0.1:{}", self.client);
        Ok(Endpoint::from_shared(url)?
            .tcp_nodelay(true)
            .connect()
            .await?)
    }

    pub async fn kv(&self) -> Result<KvClient<Channel>> {
        Ok(KvClient::new(self.channel().await?).max_decoding_message_size(usize::MAX))
    }

    /// The hash at `revision`; zero: now.
    pub async fn hash(&self, revision: i64) -> Result<HashKvResponse> {
        let mut maintenance = MaintenanceClient::new(self.channel().await?);
        Ok(maintenance
            .hash_kv(HashKvRequest { revision })
            .await?
            .into_inner())
    }

    /// Ends the process with SIGKILL, between two records if it is traced.
    pub fn kill(mut self, tracing: Option<&Tracing>) -> Result<()> {
        let lock = tracing
            .map(|tracing| File::open(&tracing.lock))
            .transpose()?;
        if let Some(lock) = &lock {
            lock.lock()?;
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends the process with SIGTERM.
    pub async fn terminate(mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("a process ID")?;
        kill_process(pid, Signal::TERM)?;
        let end = Instant::now() + EXIT_DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "kvd ended with {status}:\n{}", self.log());
                return Ok(());
            }
            ensure!(Instant::now() < end, "kvd does not end:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
