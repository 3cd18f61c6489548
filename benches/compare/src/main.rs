//! kvd and etcd side by side: same machine, same run, interleaved, data on disk with fsync on both
//! sides, one load generator for both.
//!
//! The main figure is server CPU time per operation, summed over the members: it hardly moves
//! when the generator and the servers share cores, which throughput does. `make compare
//! ETCD=path` runs all of it; `--help` says how to run less.

mod load;
mod noop;
mod report;
mod servers;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::load::Workload;
use crate::report::{Measurement, Report};
use crate::servers::{Cluster, Kind};

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
    /// Workloads to run, comma-separated: put, range, range1000, txn, store.
    #[arg(long, value_delimiter = ',',
          default_values_t = ["put", "range", "range1000", "txn", "store"].map(String::from))]
    workloads: Vec<String>,
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
    for &members in &arguments.members {
        for workload in &arguments.workloads {
            match workload.as_str() {
                "store" if members == 1 => {
                    for kind in kinds(arguments, false) {
                        store(arguments, kind, &mut report).await?;
                    }
                }
                "store" => {}
                name => loads(arguments, name, members, &mut report).await?,
            }
        }
    }
    Ok(report)
}

fn kinds(arguments: &Arguments, with_noop: bool) -> Vec<Kind> {
    let mut kinds = vec![Kind::Kvd(
        arguments.kvd.clone(),
        arguments.kvd_arguments.clone(),
    )];
    kinds.extend(arguments.etcd.clone().map(Kind::Etcd));
    if with_noop {
        kinds.push(Kind::Noop);
    }
    kinds
}

async fn loads(
    arguments: &Arguments,
    name: &str,
    members: usize,
    report: &mut Report,
) -> Result<()> {
    let workload = Workload::named(name)?;
    let kinds = kinds(arguments, members == 1 && name != "txn");
    for &clients in &arguments.clients {
        for round in 0..arguments.rounds {
            for kind in &kinds {
                let cluster =
                    Cluster::start(kind, members, arguments.dir.as_deref(), arguments.pin).await?;
                let measured = load::run(
                    &cluster,
                    workload,
                    clients,
                    Duration::from_secs(arguments.seconds),
                )
                .await?;
                eprintln!(
                    "{name} members={members} clients={clients} round={round} {}: {measured}",
                    kind.name()
                );
                report.add(Measurement {
                    workload: name.to_owned(),
                    members,
                    clients,
                    server: kind.name().to_owned(),
                    round,
                    measured,
                });
            }
        }
    }
    Ok(())
}

/// Memory with a filled store, then the time of a restart with it.
async fn store(arguments: &Arguments, kind: Kind, report: &mut Report) -> Result<()> {
    let mut cluster = Cluster::start(&kind, 1, arguments.dir.as_deref(), arguments.pin).await?;
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
