//! Results as a table for people and as JSON for machines.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::load::Measured;

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Measurement {
    /// What the clients did.
    pub workload: String,
    /// Members of the cluster.
    pub members: usize,
    /// Clients at once.
    pub clients: usize,
    /// Which server.
    pub server: String,
    /// Which repetition.
    pub round: usize,
    /// What came out.
    pub measured: Measured,
}

/// Memory and restart of a filled store.
#[derive(Clone, Debug, Serialize)]
pub struct StoreMeasurement {
    server: String,
    keys: usize,
    filled_bytes: u64,
    restart_ms: u64,
    restarted_bytes: u64,
}

/// What watchers and leases add to the memory of one member.
#[derive(Clone, Debug, Serialize)]
pub struct Footprint {
    server: String,
    count: usize,
    bytes_a_watcher: u64,
    bytes_a_lease: u64,
}

/// All results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    machine: String,
    versions: Vec<String>,
    measurements: Vec<Measurement>,
    stores: Vec<StoreMeasurement>,
    footprints: Vec<Footprint>,
}

fn version(program: &Path) -> Result<String> {
    let output = Command::new(program)
        .arg("--version")
        .output()
        .with_context(|| format!("running {} --version", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().collect::<Vec<_>>().join("; "))
}

impl Report {
    /// An empty report that names machine and versions.
    ///
    /// Errors: when a binary cannot be run.
    pub fn new(kvd: PathBuf, etcd: Option<PathBuf>) -> Result<Report> {
        let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
        let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model
            .unwrap_or(": unknown CPU")
            .trim()
            .trim_start_matches(':')
            .trim();
        let cores = std::thread::available_parallelism()?;
        let mut versions = vec![format!("kvd: {}", version(&kvd)?)];
        if let Some(etcd) = etcd {
            versions.push(format!("etcd: {}", version(&etcd)?));
        }
        let machine = format!("{cores} cores, {model}");
        Ok(Report {
            machine,
            versions,
            measurements: Vec::new(),
            stores: Vec::new(),
            footprints: Vec::new(),
        })
    }

    /// Adds a measurement.
    pub fn add(&mut self, measurement: Measurement) {
        self.measurements.push(measurement);
    }

    /// Adds the figures of a filled store.
    pub fn add_store(
        &mut self,
        server: &str,
        keys: usize,
        filled_bytes: u64,
        restart: Duration,
        restarted_bytes: u64,
    ) {
        let restart_ms = u64::try_from(restart.as_millis()).unwrap_or(u64::MAX);
        let server = server.to_owned();
        self.stores.push(StoreMeasurement {
            server,
            keys,
            filled_bytes,
            restart_ms,
            restarted_bytes,
        });
    }

    /// Adds the memory of watchers and leases.
    pub fn add_footprint(&mut self, server: &str, count: usize, watcher: u64, lease: u64) {
        self.footprints.push(Footprint {
            server: server.to_owned(),
            count,
            bytes_a_watcher: watcher,
            bytes_a_lease: lease,
        });
    }

    /// The tables: medians over the rounds.
    pub fn markdown(&self) -> String {
        let mut text = format!("{}\n{}\n\n", self.machine, self.versions.join("\n"));
        text.push_str(
            "| workload | members | clients | server | CPU us/op | op/s | p50 us | p99 us | MiB |\n\
             |---|---|---|---|---|---|---|---|---|\n",
        );
        let mut seen = Vec::new();
        for one in &self.measurements {
            let case = (&one.workload, one.members, one.clients, &one.server);
            if seen.contains(&case) {
                continue;
            }
            seen.push(case);
            let same: Vec<&Measured> = self
                .measurements
                .iter()
                .filter(|m| (&m.workload, m.members, m.clients, &m.server) == case)
                .map(|m| &m.measured)
                .collect();
            let middle = |value: fn(&Measured) -> f64| {
                let mut values: Vec<f64> = same.iter().map(|m| value(m)).collect();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            let row = writeln!(
                text,
                "| {} | {} | {} | {} | {:.1} | {:.0} | {:.0} | {:.0} | {:.0} |",
                one.workload,
                one.members,
                one.clients,
                one.server,
                middle(|m| m.cpu_us),
                middle(|m| m.per_second),
                middle(|m| m.p50_us as f64),
                middle(|m| m.p99_us as f64),
                middle(|m| m.memory as f64 / 1024.0 / 1024.0),
            );
            row.unwrap_or_default();
        }
        if !self.stores.is_empty() {
            text.push_str(
                "\n| store | keys | MiB filled | restart ms | MiB after restart |\n\
                 |---|---|---|---|---|\n",
            );
        }
        for store in &self.stores {
            let row = writeln!(
                text,
                "| {} | {} | {} | {} | {} |",
                store.server,
                store.keys,
                store.filled_bytes / 1024 / 1024,
                store.restart_ms,
                store.restarted_bytes / 1024 / 1024,
            );
            row.unwrap_or_default();
        }
        self.footprints_markdown(&mut text);
        text
    }

    fn footprints_markdown(&self, text: &mut String) {
        if !self.footprints.is_empty() {
            text.push_str("\n| footprint | of each | bytes a watcher | bytes a lease |\n");
            text.push_str("|---|---|---|---|\n");
        }
        for one in &self.footprints {
            let row = writeln!(
                text,
                "| {} | {} | {} | {} |",
                one.server, one.count, one.bytes_a_watcher, one.bytes_a_lease
            );
            row.unwrap_or_default();
        }
    }
}
