//! kvd and etcd side by side: same machine, same run, interleaved, data on disk with fsync on both
//! sides, one load generator for both.
//!
//! The main figure is server CPU time per operation, summed over the members: it hardly moves
//! when the generator and the servers share cores, which throughput does. `make compare
//! ETCD=path` runs all of it; `--help` says how to run less.

mod load;
mod noop;
mod report;
mod secure;
mod servers;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::load::{Measured, Workload};
use crate::report::{Measurement, Report};
use crate::secure::{Auth, Security};
use crate::servers::{Cluster, Kind, Start};
use crate::watch::Audience;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Compares kvd with etcd on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The kvd binary.
    #[arg(long, default_value = "target/release/kvd")]
    kvd: PathBuf,
    /// The etcd binary; without it only kvd is measured.
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// How often each measurement is repeated, the two sides in turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Keys of the memory and restart workloads.
    #[arg(long, default_value_t = 1_000_000)]
    keys: usize,
    /// Members of the clusters, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 3])]
    members: Vec<usize>,
    /// Clients of the loads, comma-separated.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1000])]
    clients: Vec<usize>,
    /// Workloads to run, comma-separated: put, range, range1000, txn, store, watch, keepalive,
    /// footprint.
    #[arg(long, value_delimiter = ',',
          default_values_t = ["put", "range", "range1000", "txn", "store", "watch", "keepalive",
                              "footprint"].map(String::from))]
    workloads: Vec<String>,
    /// Watchers, and leases, of the footprint workload.
    #[arg(long, default_value_t = 100_000)]
    footprint: usize,
    /// How clients say who they are, comma-separated: each workload is run with each. With `cn`
    /// there is TLS, too.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Auth::None])]
    auth: Vec<Auth>,
    /// TLS on all ports of both sides, with certificates on ECDSA P-256; members verify each other.
    #[arg(long)]
    tls: bool,
    /// Also measures kvd with its audit log (`--audit-log-level=metadata`).
    #[arg(long)]
    audit: bool,
    /// Pins the servers to core 0 and the generator to core 1.
    #[arg(long)]
    pin: bool,
    /// Where the data directories are made; must be a real disk.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Extra arguments for kvd, separated by spaces.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    kvd_arguments: String,
    /// Where the raw results are written as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves KV without doing anything: the floor of any server on this stack.
    Noop {
        /// Address to listen on.
        address: std::net::SocketAddr,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(Command::Noop { address }) = arguments.command {
        return noop::serve(address);
    }
    if arguments.pin {
        servers::pin_this_process(1)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let report = runtime.block_on(run(&arguments))?;
    print!("{}", report.markdown());
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}

async fn run(arguments: &Arguments) -> Result<Report> {
    let mut report = Report::new(arguments.kvd.clone(), arguments.etcd.clone())?;
    for &auth in &arguments.auth {
        let tls = arguments.tls;
        for &members in &arguments.members {
            let start = Start {
                members,
                dir: arguments.dir.as_deref(),
                pin: arguments.pin,
                security: Security { auth, tls },
            };
            for workload in &arguments.workloads {
                one_workload(arguments, workload, start, &mut report).await?;
            }
        }
    }
    Ok(report)
}

async fn one_workload(
    arguments: &Arguments,
    workload: &str,
    start: Start<'_>,
    report: &mut Report,
) -> Result<()> {
    let plain = !start.security.tls() && start.security.auth == Auth::None;
    match workload {
        "store" | "footprint" if start.members != 1 => {}
        // Whose tables have no column for it; and whom a restart logs out.
        "store" | "footprint" if !plain => {
            eprintln!("{workload} is not measured with TLS or users");
        }
        "store" => {
            for kind in kinds(arguments, false) {
                store(arguments, start, kind, report).await?;
            }
        }
        "footprint" => {
            for kind in kinds(arguments, false) {
                footprint(arguments, start, &kind, report).await?;
            }
        }
        "watch" => fan_outs(arguments, start, report).await?,
        "keepalive" => keep_alives(arguments, start, report).await?,
        name => loads(arguments, name, start, report).await?,
    }
    Ok(())
}

fn kinds(arguments: &Arguments, with_noop: bool) -> Vec<Kind> {
    let mut kinds = vec![Kind::Kvd(
        arguments.kvd.clone(),
        arguments.kvd_arguments.clone(),
    )];
    if arguments.audit {
        let (kvd, extra) = (arguments.kvd.clone(), arguments.kvd_arguments.clone());
        kinds.push(Kind::Audited(kvd, extra));
    }
    kinds.extend(arguments.etcd.clone().map(Kind::Etcd));
    if with_noop {
        kinds.push(Kind::Noop);
    }
    kinds
}

async fn loads(
    arguments: &Arguments,
    name: &str,
    start: Start<'_>,
    report: &mut Report,
) -> Result<()> {
    let workload = Workload::named(name)?;
    let suffix = start.security.suffix();
    let with_noop = start.members == 1 && workload != Workload::Txn && suffix.is_empty();
    let kinds = kinds(arguments, with_noop);
    let name = format!("{name}{suffix}");
    for &clients in &arguments.clients {
        for round in 0..arguments.rounds {
            for kind in &kinds {
                let cluster = Cluster::start(kind, start).await?;
                let length = Duration::from_secs(arguments.seconds);
                let measured = load::run(&cluster, workload, clients, length).await?;
                add(
                    report,
                    (&name, start.members, clients, round),
                    kind,
                    measured,
                );
            }
        }
    }
    Ok(())
}

/// Events to many watchers, at 100 puts a second and at full speed.
async fn fan_outs(arguments: &Arguments, start: Start<'_>, report: &mut Report) -> Result<()> {
    let cases = [
        ("watch one key", Audience::ONE_KEY, Some(100)),
        ("watch one key, full speed", Audience::ONE_KEY, None),
        ("watch own keys", Audience::OWN_KEYS, Some(100)),
        ("watch own keys, full speed", Audience::OWN_KEYS, None),
    ];
    for (name, audience, rate) in cases {
        let name = format!("{name}{}", start.security.suffix());
        for round in 0..arguments.rounds {
            for kind in kinds(arguments, false) {
                let cluster = Cluster::start(&kind, start).await?;
                let length = Duration::from_secs(arguments.seconds);
                let measured = watch::fan_out(&cluster, audience, rate, length).await?;
                let clients = audience.streams * audience.watchers;
                add(
                    report,
                    (&name, start.members, clients, round),
                    &kind,
                    measured,
                );
            }
        }
    }
    Ok(())
}

/// Renewals of leases.
async fn keep_alives(arguments: &Arguments, start: Start<'_>, report: &mut Report) -> Result<()> {
    let name = format!("lease keep-alive{}", start.security.suffix());
    for &clients in &arguments.clients {
        for round in 0..arguments.rounds {
            for kind in kinds(arguments, false) {
                let cluster = Cluster::start(&kind, start).await?;
                let length = Duration::from_secs(arguments.seconds);
                let measured = watch::keep_alive(&cluster, clients, length).await?;
                add(
                    report,
                    (&name, start.members, clients, round),
                    &kind,
                    measured,
                );
            }
        }
    }
    Ok(())
}

/// Memory of watchers and leases.
async fn footprint(
    arguments: &Arguments,
    start: Start<'_>,
    kind: &Kind,
    report: &mut Report,
) -> Result<()> {
    let count = arguments.footprint;
    let cluster = Cluster::start(kind, start).await?;
    let watcher = watch::watcher_bytes(&cluster, count).await?;
    drop(cluster);
    let cluster = Cluster::start(kind, start).await?;
    let lease = watch::lease_bytes(&cluster, count).await?;
    let server = kind.name();
    eprintln!("footprint {server}: {watcher} bytes a watcher, {lease} bytes a lease");
    report.add_footprint(server, count, watcher, lease);
    Ok(())
}

fn add(
    report: &mut Report,
    (workload, members, clients, round): (&str, usize, usize, usize),
    kind: &Kind,
    measured: Measured,
) {
    let server = kind.name();
    eprintln!("{workload} members={members} clients={clients} round={round} {server}: {measured}");
    report.add(Measurement {
        workload: workload.to_owned(),
        members,
        clients,
        server: server.to_owned(),
        round,
        measured,
    });
}

/// Memory with a filled store, then the time of a restart with it.
async fn store(
    arguments: &Arguments,
    start: Start<'_>,
    kind: Kind,
    report: &mut Report,
) -> Result<()> {
    let mut cluster = Cluster::start(&kind, start).await?;
    load::fill(&cluster, arguments.keys, 256).await?;
    let filled = cluster.memory()?;
    let restart = cluster.restart().await?;
    load::touch(&cluster, 1000).await?;
    let restarted = cluster.memory()?;
    eprintln!(
        "store keys={} {}: {} MiB filled, restart {:?}, then {} MiB",
        arguments.keys,
        kind.name(),
        filled / 1024 / 1024,
        restart,
        restarted / 1024 / 1024
    );
    report.add_store(kind.name(), arguments.keys, filled, restart, restarted);
    Ok(())
}
