//! The processes that are measured.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use kvd_api::pb::etcdserverpb::RangeRequest;
use kvd_api::pb::etcdserverpb::kv_client::KvClient;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};
use tempfile::TempDir;

use crate::secure::{Connection, Security, Setup};

/// Clock ticks in a second, as Linux reports CPU times to programs.
const TICKS: f64 = 100.0;

/// What to run.
#[derive(Clone, Debug)]
pub enum Kind {
    /// The kvd binary, with extra arguments.
    Kvd(PathBuf, String),
    /// The same with its audit log.
    Audited(PathBuf, String),
    /// An etcd binary.
    Etcd(PathBuf),
    /// A server that does nothing.
    Noop,
}

impl Kind {
    /// The name in the report.
    pub fn name(&self) -> &'static str {
        match self {
            Kind::Kvd(..) => "kvd",
            Kind::Audited(..) => "kvd, audit",
            Kind::Etcd(_) => "etcd",
            Kind::Noop => "no-op",
        }
    }
}

/// How clusters are started.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// How many processes.
    pub members: usize,
    /// Where the data directories are made.
    pub dir: Option<&'a Path>,
    /// Whether the servers have core 0 for themselves.
    pub pin: bool,
    /// TLS and users.
    pub security: Security,
}

/// A running cluster.
pub struct Cluster {
    processes: Vec<Child>,
    commands: Vec<Vec<String>>,
    program: PathBuf,
    ports: Vec<(u16, u16)>,
    folder: TempDir,
    pin: bool,
    setup: Setup,
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Restricts this process, and all that it starts from now on, to one core.
///
/// Errors: when the core does not exist.
pub fn pin_this_process(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("pinning to core {core}"))
}

impl Cluster {
    /// Starts `members` processes and waits until they serve.
    ///
    /// Errors: when one does not within 30 seconds.
    pub async fn start(kind: &Kind, start: Start<'_>) -> Result<Cluster> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("kvd-compare-");
        let folder = match start.dir {
            Some(dir) => builder.tempdir_in(dir)?,
            None => builder.tempdir()?,
        };
        let members = if matches!(kind, Kind::Noop) {
            1
        } else {
            start.members
        };
        let setup = Setup::new(start.security, folder.path())?;
        let mut ports = Vec::new();
        for _ in 0..members {
            ports.push((free_port()?, free_port()?));
        }
        let program = match kind {
            Kind::Kvd(path, _) | Kind::Audited(path, _) | Kind::Etcd(path) => path.clone(),
            Kind::Noop => std::env::current_exe()?,
        };
        let commands = (0..members)
            .map(|index| command(kind, (index, &ports), folder.path(), &setup))
            .collect();
        let mut cluster = Cluster {
            processes: Vec::new(),
            commands,
            program,
            ports,
            folder,
            pin: start.pin,
            setup,
        };
        cluster.spawn()?;
        cluster.wait_ready().await?;
        let address = cluster.address(0);
        cluster.setup.make_users(&address).await?;
        // Every member has to know the users before the first load.
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    fn spawn(&mut self) -> Result<()> {
        if self.pin {
            pin_this_process(0)?;
        }
        for (index, arguments) in self.commands.iter().enumerate() {
            let log = File::create(self.folder.path().join(format!("log.{index}")))?;
            let child = Command::new(&self.program)
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .with_context(|| format!("starting {}", self.program.display()))?;
            self.processes.push(child);
        }
        if self.pin {
            pin_this_process(1)?;
        }
        Ok(())
    }

    async fn wait_ready(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        for number in 0..self.ports.len() {
            loop {
                let ask = async {
                    let mut kv = KvClient::new(self.connect(number).await?);
                    let request = RangeRequest {
                        key: Bytes::from_static(b"key/"),
                        ..Default::default()
                    };
                    kv.range(request).await?;
                    anyhow::Ok(())
                };
                match tokio::time::timeout(Duration::from_secs(5), ask).await {
                    Ok(Ok(())) => break,
                    Ok(Err(error)) if Instant::now() > end => {
                        let program = self.program.display();
                        return Err(error.context(format!("{program} does not serve")));
                    }
                    Err(_) if Instant::now() > end => {
                        bail!("{} does not answer", self.program.display())
                    }
                    _ => tokio::time::sleep(Duration::from_millis(2)).await,
                }
            }
        }
        Ok(())
    }

    fn address(&self, number: usize) -> String {
        let (client, _) = self.ports[number % self.ports.len()];
        format!("127.0.0.1:{client}")
    }

    /// A connection to a member; numbers beyond the last begin again with the first.
    ///
    /// Errors: when there is none to be had.
    pub async fn connect(&self, number: usize) -> Result<Connection> {
        self.setup.connect(&self.address(number)).await
    }

    /// CPU seconds, user and system, that all processes have used.
    ///
    /// Errors: when a process has ended.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let mut ticks = 0.0;
        for process in &self.processes {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.id()))?;
            let fields = stat.rsplit_once(')').context("a stat line")?.1;
            let fields: Vec<&str> = fields.split_whitespace().collect();
            // utime and stime are fields 14 and 15; two stand before the name's end.
            ticks += fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        }
        Ok(ticks / TICKS)
    }

    /// Resident bytes of all processes, mapped files included.
    ///
    /// Errors: when a process has ended.
    pub fn memory(&self) -> Result<u64> {
        let mut kilobytes = 0;
        for process in &self.processes {
            let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let line = line.context("a VmRSS line")?;
            kilobytes += line.trim().trim_end_matches(" kB").trim().parse::<u64>()?;
        }
        Ok(kilobytes * 1024)
    }

    /// Stops with SIGTERM, starts again on the same data, and returns how long it took from start
    /// to the first linearizable answer.
    ///
    /// Errors: when it does not come back.
    pub async fn restart(&mut self) -> Result<Duration> {
        for process in &mut self.processes {
            let pid = Pid::from_raw(i32::try_from(process.id())?).context("a process ID")?;
            kill_process(pid, Signal::TERM)?;
            process.wait()?;
        }
        self.processes.clear();
        let start = Instant::now();
        self.spawn()?;
        self.wait_ready().await?;
        Ok(start.elapsed())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

fn command(
    kind: &Kind,
    (index, ports): (usize, &[(u16, u16)]),
    folder: &Path,
    setup: &Setup,
) -> Vec<String> {
    let (client, peer) = ports[index];
    if matches!(kind, Kind::Noop) {
        return vec!["noop".to_owned(), format!("127.0.0.1:{client}")];
    }
    let url = |port: u16| format!("{}://127.0.0.1:{port}", setup.scheme());
    let initial: Vec<String> = ports
        .iter()
        .enumerate()
        .map(|(index, (_, peer))| format!("m{index}={}", url(*peer)))
        .collect();
    let data = folder.join(format!("m{index}"));
    let mut arguments: Vec<String> = [
        ("--name", format!("m{index}")),
        ("--data-dir", data.display().to_string()),
        ("--listen-client-urls", url(client)),
        ("--advertise-client-urls", url(client)),
        ("--listen-peer-urls", url(peer)),
        ("--initial-advertise-peer-urls", url(peer)),
        ("--initial-cluster", initial.join(",")),
        ("--log-level", "error".to_owned()),
        ("--quota-backend-bytes", "8589934592".to_owned()),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value])
    .collect();
    arguments.extend_from_slice(setup.flags());
    if let Kind::Kvd(_, extra) | Kind::Audited(_, extra) = kind {
        arguments.extend(extra.split_whitespace().map(str::to_owned));
    }
    if matches!(kind, Kind::Audited(..)) {
        arguments.push("--audit-log-level=metadata".to_owned());
    }
    arguments
}
