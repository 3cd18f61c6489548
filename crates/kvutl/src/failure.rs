//! How a command fails, and with which exit code. Source: etcd `pkg/cobrautl/error.go`.

use std::fmt;
use std::io;

/// All went well.
pub(crate) const SUCCESS: u8 = 0;
/// Something failed.
pub(crate) const ERROR: u8 = 1;
/// What was asked for does not exist in this format.
pub(crate) const BAD_FEATURE: u8 = 4;
/// The words make no sense together.
pub(crate) const BAD_ARGS: u8 = 128;

/// The outcome of a command.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    error: anyhow::Error,
}

impl Failure {
    /// Any failure.
    pub(crate) fn new(message: impl Into<String>) -> Failure {
        Failure::with_code(ERROR, message)
    }

    /// A failure with its own exit code.
    pub(crate) fn with_code(code: u8, message: impl Into<String>) -> Failure {
        let error = anyhow::Error::msg(message.into());
        Failure { code, error }
    }

    pub(crate) fn is_broken_pipe(&self) -> bool {
        let io = self.error.downcast_ref::<io::Error>();
        io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Each error says itself what caused it.
        write!(f, "{}", self.error)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure {
            code: ERROR,
            error: error.into(),
        }
    }
}
