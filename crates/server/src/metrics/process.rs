//! What the operating system says about this process, under the names of Prometheus' own clients.
//!
//! Source: Linux `proc(5)`. On other systems the numbers stay zero.

use std::fs;

use prometheus::{Counter, IntGauge, Opts, Registry};
use rustix::process::{Resource, getrlimit};

/// The unit of times in `/proc`: 100 a second on every architecture that Linux runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// One look at the process.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessStats {
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Resident memory that belongs to no file, in bytes: heap and stacks.
    pub private_bytes: u64,
    /// Address space in bytes.
    pub virtual_bytes: u64,
    /// Most address space in bytes; the largest number there is when unlimited.
    pub virtual_max_bytes: u64,
    /// CPU time used, in seconds.
    pub cpu_seconds: f64,
    /// When the process started, in seconds since 1970.
    pub start_seconds: f64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// Most open file descriptors.
    pub max_fds: u64,
}

impl ProcessStats {
    /// Looks at the process now. What cannot be read is zero.
    pub fn read() -> ProcessStats {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let uptime = fs::read_to_string("/proc/stat").unwrap_or_default();
        // One descriptor is the listing's own.
        let open_fds = fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count().saturating_sub(1));
        ProcessStats {
            resident_bytes: kilobytes(&status, "VmRSS:"),
            private_bytes: kilobytes(&status, "RssAnon:"),
            virtual_bytes: kilobytes(&status, "VmSize:"),
            virtual_max_bytes: getrlimit(Resource::As).current.unwrap_or(u64::MAX),
            cpu_seconds: (field(&stat, 14) + field(&stat, 15)) / TICKS_PER_SECOND,
            start_seconds: boot_seconds(&uptime) + field(&stat, 22) / TICKS_PER_SECOND,
            open_fds: open_fds as u64,
            max_fds: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        }
    }
}

/// The value of a line such as `VmRSS:  1234 kB`, in bytes.
fn kilobytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

/// Field `number` of `/proc/self/stat`, counted from 1. The second is the program's name in
/// parentheses, which may hold spaces: the fields after it are counted from its end.
fn field(stat: &str, number: usize) -> f64 {
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let text = rest.split_whitespace().nth(number.saturating_sub(3));
    text.and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

/// When the machine started, in seconds since 1970.
fn boot_seconds(stat: &str) -> f64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|text| text.trim().parse().ok())
        .unwrap_or(0.0)
}

/// The process's metrics.
pub(super) struct ProcessMetrics {
    resident: IntGauge,
    virtual_bytes: IntGauge,
    /// May be beyond what an integer gauge holds.
    virtual_max: prometheus::Gauge,
    cpu: Counter,
    start: prometheus::Gauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    os_fd_used: IntGauge,
    os_fd_limit: IntGauge,
}

impl ProcessMetrics {
    pub(super) fn register(registry: &Registry) -> ProcessMetrics {
        let int = |name, help| {
            let gauge =
                IntGauge::with_opts(Opts::new(name, help)).expect("the name is well formed");
            registry
                .register(Box::new(gauge.clone()))
                .expect("names of metrics are unique");
            gauge
        };
        let float = |name, help| {
            let gauge = prometheus::Gauge::with_opts(Opts::new(name, help))
                .expect("the name is well formed");
            registry
                .register(Box::new(gauge.clone()))
                .expect("names of metrics are unique");
            gauge
        };
        let cpu = Opts::new(
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
        );
        let cpu = Counter::with_opts(cpu).expect("the name is well formed");
        registry
            .register(Box::new(cpu.clone()))
            .expect("names of metrics are unique");
        ProcessMetrics {
            resident: int(
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
            ),
            virtual_bytes: int(
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes.",
            ),
            virtual_max: float(
                "process_virtual_memory_max_bytes",
                "Maximum amount of virtual memory available in bytes.",
            ),
            cpu,
            start: float(
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
            ),
            open_fds: int("process_open_fds", "Number of open file descriptors."),
            max_fds: int(
                "process_max_fds",
                "Maximum number of open file descriptors.",
            ),
            os_fd_used: int("os_fd_used", "The number of used file descriptors."),
            os_fd_limit: int("os_fd_limit", "The file descriptor limit."),
        }
    }

    /// Takes a fresh look.
    pub(super) fn refresh(&self) {
        let stats = ProcessStats::read();
        self.resident.set(super::clamped(stats.resident_bytes));
        self.virtual_bytes.set(super::clamped(stats.virtual_bytes));
        self.virtual_max.set(stats.virtual_max_bytes as f64);
        // Two scrapes at once may look in either order: time never runs back.
        self.cpu
            .inc_by((stats.cpu_seconds - self.cpu.get()).max(0.0));
        self.start.set(stats.start_seconds);
        self.open_fds.set(super::clamped(stats.open_fds));
        self.max_fds.set(super::clamped(stats.max_fds));
        self.os_fd_used.set(super::clamped(stats.open_fds));
        self.os_fd_limit.set(super::clamped(stats.max_fds));
    }
}
