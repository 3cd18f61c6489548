//! What can go wrong with a database file.

use std::io;

/// The result of reading or writing a database file.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused to read or write.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file does not begin as a bbolt database does.
    #[error("not a bbolt database: {0}")]
    Format(&'static str),
    /// The bytes of a page make no sense.
    #[error("page {page}: {problem}")]
    Corrupt {
        /// The page's number.
        page: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// A bucket that must be there is not.
    #[error("there is no bucket {0:?}")]
    NoBucket(String),
    /// Buckets or keys were not given in ascending order.
    #[error("keys must be written in ascending order")]
    Order,
    /// A key is empty, or longer than bbolt allows.
    #[error("a key of {0} bytes cannot be stored")]
    KeyLength(usize),
    /// A value is longer than the format can say.
    #[error("a value of {0} bytes cannot be stored")]
    ValueLength(usize),
}

impl Error {
    pub(crate) fn corrupt(page: u64, problem: impl Into<String>) -> Error {
        Error::Corrupt {
            page,
            problem: problem.into(),
        }
    }
}
