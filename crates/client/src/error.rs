//! What can go wrong, as seen by a caller.

use std::time::Duration;

use kvd_api::error::WireError;
use kvd_api::pb::etcdserverpb::ResponseHeader;
use tonic::Code;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// One endpoint that could not be reached, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The endpoint as it was given.
    pub endpoint: String,
    /// The last reason, in the operating system's words.
    pub reason: String,
}

/// Why a request failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A server answered with an error. The texts of etcd's own errors are kept to the letter.
    #[error("{}", etcd_text(*code, message))]
    Etcd {
        /// The gRPC code.
        code: Code,
        /// The server's text.
        message: String,
    },
    /// No endpoint could be reached before the deadline: the request was certainly not sent.
    #[error("no endpoint could be reached within {waited:?}: {}", list(tried))]
    NoConnection {
        /// How long was tried.
        waited: Duration,
        /// Every endpoint with its last failure.
        tried: Vec<Attempt>,
    },
    /// The deadline passed after the request was sent: whether it took effect is unknown.
    #[error("context deadline exceeded")]
    DeadlineExceeded,
    /// The connection broke after the request was sent: whether it took effect is unknown.
    #[error("connection to {endpoint} was lost: {reason}")]
    ConnectionLost {
        /// The endpoint as it was given.
        endpoint: String,
        /// What broke.
        reason: String,
    },
    /// The request is larger than the limit set on this client.
    #[error(
        "rpc error: code = ResourceExhausted desc = \
         trying to send message larger than max ({size} vs. {limit})"
    )]
    TooLarge {
        /// Bytes of the encoded request.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The limits contradict each other.
    #[error(
        "gRPC message recv limit ({receive} bytes) must be greater than send limit ({send} bytes)"
    )]
    BadLimits {
        /// Bytes allowed for an answer.
        receive: usize,
        /// Bytes allowed for a request.
        send: usize,
    },
    /// The client was built without an endpoint.
    #[error("etcdclient: no available endpoints")]
    NoEndpoints,
    /// An endpoint is in none of the forms of [`crate::Endpoint`].
    #[error("endpoint {endpoint:?} is not usable: {reason}")]
    BadEndpoint {
        /// The endpoint as it was given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What TLS needs cannot be read, or makes no sense.
    #[error("{reason}")]
    Tls {
        /// Which file, and what is wrong with it.
        reason: String,
    },
    /// No token could be got for the client's user.
    #[error(transparent)]
    Login(Box<Error>),
    /// The token cannot be sent: it holds more than visible ASCII.
    #[error("the token holds characters that no header may hold")]
    BadToken,
    /// The server ended a watch.
    #[error("{}", canceled(*compact_revision, reason))]
    WatchCanceled {
        /// Who answered, and the store's revision.
        header: ResponseHeader,
        /// The compacted revision, when the watch asked for something below it; else zero.
        compact_revision: i64,
        /// The server's text, which may be empty.
        reason: String,
    },
    /// The watch was over before.
    #[error("the watch is closed")]
    WatchClosed,
    /// The lease of the session ran out, and what it held is lost.
    #[error("mutex: session is expired")]
    SessionExpired,
    /// Another session holds the lock.
    #[error("mutex: Locked by another session")]
    Locked,
    /// The lock is not held.
    #[error("mutex: lock has already been released")]
    NotLocked,
    /// Another session leads, or this one has resigned.
    #[error("election: not leader")]
    NotLeader,
    /// Nobody leads.
    #[error("election: no leader")]
    NoLeader,
    /// The caller gave up waiting.
    #[error("context canceled")]
    Canceled,
    /// An answer could not be decoded.
    #[error("the answer could not be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
}

impl Error {
    /// Whether the request may have taken effect although it failed.
    pub fn is_fate_unknown(&self) -> bool {
        match self {
            Error::DeadlineExceeded | Error::ConnectionLost { .. } => true,
            // A server that gives up waiting for consensus answers Unavailable, and one that
            // is too late for our deadline DeadlineExceeded; the entry may commit yet.
            Error::Etcd { code, .. } => {
                matches!(
                    code,
                    Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown
                )
            }
            Error::NoConnection { .. }
            | Error::TooLarge { .. }
            | Error::BadLimits { .. }
            | Error::NoEndpoints
            | Error::BadEndpoint { .. }
            | Error::Tls { .. }
            | Error::WatchCanceled { .. }
            | Error::WatchClosed
            | Error::Login(_)
            | Error::BadToken
            | Error::SessionExpired
            | Error::Locked
            | Error::NotLocked
            | Error::NotLeader
            | Error::NoLeader
            | Error::Canceled
            | Error::Decode(_) => false,
        }
    }

    /// The row of the wire table that a server's error belongs to.
    pub fn wire(&self) -> Option<WireError> {
        let text = match self {
            Error::Etcd { message, .. } => message,
            Error::Login(error) => return error.wire(),
            Error::WatchCanceled {
                compact_revision,
                reason,
                ..
            } => match reason.split_once(" desc = ") {
                _ if *compact_revision != 0 => return Some(WireError::Compacted),
                Some((_, text)) => text,
                None => reason,
            },
            _ => return None,
        };
        WireError::ALL
            .iter()
            .copied()
            .find(|row| row.message() == text)
    }
}

/// The name of a gRPC code as Go programs print it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// etcd's own errors print as their text, anything else in gRPC's form, as clientv3 does.
fn etcd_text(code: Code, message: &str) -> String {
    // Sent by etcd, but not in the table by which its client recognises errors.
    const FOREIGN: [&str; 2] = [
        "etcdserver: request timed out, leader transfer took too long",
        "etcdserver: unknown method",
    ];
    let known = message.starts_with("etcdserver: ")
        && !FOREIGN.contains(&message)
        && WireError::ALL.iter().any(|row| row.message() == message);
    if known {
        message.to_owned()
    } else {
        format!("rpc error: code = {} desc = {message}", code_name(code))
    }
}

/// Why a watch was ended. A server that gives no reason means a revision in the future.
fn canceled(compact_revision: i64, reason: &str) -> String {
    match reason {
        _ if compact_revision != 0 => WireError::Compacted.message().to_owned(),
        "" => WireError::FutureRevision.message().to_owned(),
        // A refusal to begin comes in gRPC's form already.
        reason if reason.starts_with("rpc error: ") => reason.to_owned(),
        reason => etcd_text(Code::FailedPrecondition, reason),
    }
}

fn list(tried: &[Attempt]) -> String {
    let each: Vec<String> = tried
        .iter()
        .map(|at| format!("{}: {}", at.endpoint, at.reason))
        .collect();
    each.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_etcd_print_as_their_text_and_others_in_grpc_form() {
        let compacted = WireError::Compacted;
        let known = Error::Etcd {
            code: compacted.code(),
            message: compacted.message().into(),
        };
        assert_eq!(
            known.to_string(),
            "etcdserver: mvcc: required revision has been compacted"
        );
        assert_eq!(known.wire(), Some(WireError::Compacted));
        assert!(!known.is_fate_unknown());

        let other = Error::Etcd {
            code: Code::Unimplemented,
            message: "no such thing".into(),
        };
        assert_eq!(
            other.to_string(),
            "rpc error: code = Unimplemented desc = no such thing"
        );
        assert_eq!(other.wire(), None);
    }
}
