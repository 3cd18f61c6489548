//! The bridge from `tracing` to lines.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::line::{Fields, Head};
use super::writer::{Guard, Queue, StartError, start};
use crate::settings::{LogFormat, LogLevel, LogSettings};

/// The target of the line that ends the process: it is written with level `fatal`, whatever
/// `--log-level` says.
pub const FATAL: &str = "kvd::fatal";

/// Whether the member stops as it was told to.
static STOPPING: AtomicBool = AtomicBool::new(false);

/// Says that consensus is about to be stopped.
///
/// openraft reports each request that it can no longer take then, at level error, although peers
/// go on asking until the port is closed: a stop in order is no error. What really fails while
/// stopping comes back from the stop itself, and is logged by who called it.
pub fn stopping() {
    STOPPING.store(true, Ordering::Relaxed);
}

/// Starts logging for the whole process. Hold the guard until the last line is logged.
///
/// Errors: a log file cannot be opened. Only the first call has effect on what is logged.
pub fn init(settings: &LogSettings) -> Result<Guard, StartError> {
    let (queue, guard) = start(&settings.outputs)?;
    let layer = Lines {
        level: settings.level,
        format: settings.format,
        queue,
    };
    // A second call, as in tests, keeps the first subscriber.
    let _already_set = tracing_subscriber::registry().with(layer).try_init();
    std::panic::set_hook(Box::new(|panic| {
        let (file, line) = panic
            .location()
            .map_or(("", 0), |at| (at.file(), at.line()));
        let payload = panic.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or(payload.downcast_ref::<String>().map(String::as_str));
        let message = text.unwrap_or("unknown");
        tracing::error!(target: FATAL, file, line, "panic: {message}");
    }));
    Ok(guard)
}

struct Lines {
    level: LogLevel,
    format: LogFormat,
    queue: Queue,
}

impl Lines {
    /// Libraries speak up from warnings on, or from information on at level debug: what they
    /// tell below that is about themselves, and there is much of it.
    fn wants(&self, metadata: &Metadata<'_>) -> bool {
        if metadata.target() == FATAL {
            return true;
        }
        // openraft warns at each try to reach a peer; our transport says the same once a minute.
        if metadata.target().starts_with("openraft") && self.level > LogLevel::Debug {
            return *metadata.level() <= LevelFilter::ERROR && self.level < LogLevel::Fatal;
        }
        let ours = metadata.target().starts_with("kvd");
        let lowest = match (self.level, ours) {
            (LogLevel::Debug, true) => LevelFilter::DEBUG,
            (LogLevel::Debug, false) | (LogLevel::Info, true) => LevelFilter::INFO,
            (LogLevel::Info, false) | (LogLevel::Warn, _) => LevelFilter::WARN,
            (LogLevel::Error, _) => LevelFilter::ERROR,
            (LogLevel::Fatal, _) => LevelFilter::OFF,
        };
        *metadata.level() <= lowest
    }

    fn write(&self, metadata: &Metadata<'_>, fields: Fields) {
        let fatal = metadata.target() == FATAL;
        let head = Head {
            time: SystemTime::now(),
            level: level_name(*metadata.level(), fatal),
            file: metadata.file(),
            line: metadata.line(),
        };
        self.queue.push(fields.finish(self.format, &head), fatal);
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.wants(metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match self.level {
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Error | LogLevel::Fatal => LevelFilter::ERROR,
        })
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // Not in `wants`, whose answer is kept for each place in the code.
        let is_openraft = event.metadata().target().starts_with("openraft");
        if is_openraft && self.level > LogLevel::Debug && STOPPING.load(Ordering::Relaxed) {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        self.write(event.metadata(), fields);
        let dropped = self.queue.take_dropped();
        if dropped > 0 {
            tracing::warn!(
                lines = dropped,
                "log lines were dropped: the outputs are too slow"
            );
        }
    }
}

fn level_name(level: Level, fatal: bool) -> &'static str {
    match level {
        _ if fatal => "fatal",
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        _ => "debug",
    }
}
