//! How a command of API 2 ends when it does not succeed.

use std::io;

/// All went well.
pub(super) const SUCCESS: u8 = 0;
/// The command line makes no sense, and whatever etcdctl ends with 1.
pub(super) const BAD_ARGS: u8 = 1;
/// No endpoint can be reached.
pub(super) const BAD_CONNECTION: u8 = 2;
/// There is no such command.
pub(super) const NO_TOPIC: u8 = 3;
/// The server refused.
pub(super) const SERVER_ERROR: u8 = 4;
/// Some members are not well.
pub(super) const CLUSTER_NOT_HEALTHY: u8 = 5;

/// What a command returns.
pub(super) type Outcome<T = ()> = Result<T, Failure>;

/// Why a command failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The exit code.
    pub(super) code: u8,
    /// What stderr says, line ends included.
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(code: u8, text: impl Into<String>) -> Failure {
        let text = text.into();
        Failure { code, text }
    }

    /// A failure in etcdctl's form, which has two spaces.
    pub(super) fn error(code: u8, message: &str) -> Failure {
        Failure::new(code, format!("Error:  {message}\n"))
    }

    pub(super) fn bad_args(message: impl AsRef<str>) -> Failure {
        Failure::error(BAD_ARGS, message.as_ref())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            // The reader has seen enough.
            io::ErrorKind::BrokenPipe => Failure::new(SUCCESS, ""),
            _ => Failure::bad_args(error.to_string()),
        }
    }
}
