//! The `kvd` binary. See the library of the same name.

use std::io::Write;
use std::process::ExitCode;

use kvd::command::{Command, Failure, prepare};
use kvd::error::{EXIT_FAILURE, EXIT_USAGE, Error, Setting};
use kvd::flags::env::Environment;
use kvd::flags::help;
use kvd::notes::Note;
use kvd::settings::{LogSettings, Settings};
use kvd::{logging, run, version};
use tracing::{error, info, warn};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks for huge pages, of which a small store touches a little each: 50 MiB more
    // resident, and more time to clear them. A kernel that cannot turn that off costs memory only.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let arguments: Vec<String> = std::env::args_os().map(lossy).collect();
    let environment: Environment = std::env::vars_os()
        .map(|(name, value)| (lossy(name), lossy(value)))
        .collect();
    match prepare(arguments.get(1..).unwrap_or_default(), &environment) {
        Ok(Command::Help) => print(&help::help()),
        Ok(Command::Version) => print(&version::lines()),
        Ok(Command::Run(settings, notes)) => start(&arguments, &settings, &notes),
        Err(failure) => fail(&arguments, &failure),
    }
}

/// Prints to standard output. A reader that went away is no failure.
fn print(text: &str) -> ExitCode {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => EXIT_FAILURE.into(),
        _ => ExitCode::SUCCESS,
    }
}

fn start(arguments: &[String], settings: &Settings, notes: &[Note]) -> ExitCode {
    let _guard = match logging::init(&settings.log) {
        Ok(guard) => guard,
        Err(error) => {
            eprintln!("{error}");
            return EXIT_FAILURE.into();
        }
    };
    notes.iter().for_each(Note::emit);
    info!(args = ?arguments, "Running: ");
    match run::run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(target: logging::FATAL, error = format!("{error:#}"), "kvd stopped");
            EXIT_FAILURE.into()
        }
    }
}

/// Says why the command line or the settings cannot be used, as etcd does: a form error as plain
/// text with the usage, everything else as a log line.
fn fail(arguments: &[String], failure: &Failure) -> ExitCode {
    let code = failure.error.exit_code();
    if code == EXIT_USAGE {
        eprintln!("{}\n{}", failure.error, help::USAGE);
        return code.into();
    }
    let _guard = match logging::init(&LogSettings::default()) {
        Ok(guard) => guard,
        Err(_) => {
            eprintln!("{}", failure.error);
            return code.into();
        }
    };
    failure.notes.iter().for_each(Note::emit);
    info!(args = ?arguments, "Running: ");
    let error = failure.error.to_string();
    if let Error::Shadowed { variable } = &failure.error {
        error!(
            target: logging::FATAL,
            { "environment-variable" = variable },
            "conflicting environment variable is shadowed by corresponding command-line flag \
             (either unset environment variable or disable flag)"
        );
        return code.into();
    }
    warn!(error, "failed to verify flags");
    if let Error::Setting(Setting::AdvertiseClientMissing) = &failure.error {
        warn!(error, "advertise client URLs are not set");
    }
    code.into()
}
