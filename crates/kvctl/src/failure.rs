//! How a command ends when it does not succeed: its exit code and what stderr says.
//!
//! The codes are etcdctl's. Source: etcd `pkg/cobrautl/error.go`.

use std::io;

use kvd_api::error::WireError;
use kvd_client::Error;

/// All went well.
pub(crate) const SUCCESS: u8 = 0;
/// The request failed, or the command line makes no sense.
pub(crate) const ERROR: u8 = 1;
/// No client could be made from the endpoints and limits given.
pub(crate) const BAD_CONNECTION: u8 = 2;
/// What was read from standard input makes no sense.
pub(crate) const INVALID_INPUT: u8 = 3;
/// A valid flag has a value that is not supported.
pub(crate) const BAD_FEATURE: u8 = 4;
/// What was under way was ended from outside: a watch by the server, a snapshot half-way.
pub(crate) const INTERRUPTED: u8 = 5;
/// Output could not be written.
pub(crate) const IO: u8 = 6;
/// The arguments are wrong in number or contradict each other.
pub(crate) const BAD_ARGS: u8 = 128;

/// What a command or a printer returns.
pub(crate) type Outcome = Result<(), Failure>;

/// Why a command failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The exit code.
    pub(crate) code: u8,
    /// Printed after `Error: `; empty when everything was said already.
    pub(crate) message: String,
    /// Printed as it is below the message: details, usage, advice.
    pub(crate) details: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Failure {
            code,
            message: message.into(),
            details: String::new(),
        }
    }

    pub(crate) fn error(message: impl Into<String>) -> Self {
        Self::new(ERROR, message)
    }

    pub(crate) fn bad_args(message: impl Into<String>) -> Self {
        Self::new(BAD_ARGS, message)
    }

    pub(crate) fn bad_feature(message: impl Into<String>) -> Self {
        Self::new(BAD_FEATURE, message)
    }

    pub(crate) fn invalid_input(message: impl Into<String>) -> Self {
        Self::new(INVALID_INPUT, message)
    }

    /// Ends with a code after stderr was told already.
    pub(crate) fn silent(code: u8) -> Self {
        Self::new(code, "")
    }

    pub(crate) fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// A request's error behind a few words on what was tried.
    pub(crate) fn because(what: &str, error: &Error) -> Self {
        Self::error(format!("{what}: {}", text(error))).with_details(advice(error))
    }

    /// What stderr says.
    pub(crate) fn report(&self) -> String {
        let mut report = String::new();
        if !self.message.is_empty() {
            report = format!("Error: {}\n", self.message);
        }
        report.push_str(&self.details);
        report
    }
}

/// An error in etcdctl's words, which scripts look for.
pub(crate) fn text(error: &Error) -> String {
    match error {
        Error::Login(error) => text(error),
        Error::NoConnection { .. } => Error::DeadlineExceeded.to_string(),
        Error::ConnectionLost { .. } => {
            format!("rpc error: code = Unavailable desc = {error}")
        }
        _ => error.to_string(),
    }
}

/// Whether the user or the password is wrong. etcdctl finds that out before it asks anything, so
/// that it is one failure, whatever was to be asked, and of how many endpoints.
pub(crate) fn is_refused_login(error: &Error) -> bool {
    matches!(error, Error::Login(_)) && error.wire() == Some(WireError::AuthFailed)
}

/// What else helps: where was tried, what came of it, what to do.
pub(crate) fn advice(error: &Error) -> String {
    let (waited, tried) = match error {
        Error::NoConnection { waited, tried } => (waited, tried),
        Error::Login(error) => return advice(error),
        _ => return String::new(),
    };
    let mut advice = format!(
        "no endpoint could be reached within {:.1}s:\n",
        waited.as_secs_f64()
    );
    for at in tried {
        advice.push_str(&format!("  {}: {}\n", at.endpoint, at.reason));
    }
    advice.push_str(
        "Is a server running there? Name another with --endpoints or KVCTL_ENDPOINTS, \
         or wait longer with --command-timeout.\n",
    );
    advice
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::NoEndpoints
            | Error::BadEndpoint { .. }
            | Error::Login(_)
            | Error::BadToken
            | Error::BadLimits { .. } => BAD_CONNECTION,
            Error::Tls { .. } => BAD_ARGS,
            _ => ERROR,
        };
        Failure::new(code, text(&error)).with_details(advice(&error))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // The reader has seen enough: `kvctl get | head -1`.
            io::ErrorKind::BrokenPipe => Failure::silent(SUCCESS),
            _ => Failure::new(IO, format!("output could not be written: {error}")),
        }
    }
}
