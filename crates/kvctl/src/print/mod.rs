//! Answers as text: one trait, one implementation a format.
//!
//! What is printed equals etcdctl's output to the byte. A format that etcdctl does not offer for an
//! answer is refused after the request was made, with its exit code, as etcdctl does.

use std::io::Write;

use kvd_autopilot::status::Status;
use kvd_client::pb::{
    AlarmResponse, AuthRoleGetResponse, AuthRoleListResponse, AuthStatusResponse,
    AuthUserGetResponse, AuthUserListResponse, DeleteRangeResponse, HashKvResponse,
    LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseRevokeResponse,
    LeaseTimeToLiveResponse, MemberAddResponse, MemberListResponse, PutResponse, ResponseHeader,
    StatusResponse, TxnResponse,
};
use kvd_client::{Event, GetResponse, KeyValue, RangeResponse};
use prost::Message as _;

use crate::failure::{Failure, Outcome};

mod autopilot;
mod fields;
mod json;
mod protobuf;
mod simple;
mod table;

#[cfg(test)]
mod tests;

/// Where printed text goes: data to `out`, talk to `err`.
pub(crate) struct Streams<'s> {
    pub(crate) out: &'s mut dyn Write,
    pub(crate) err: &'s mut dyn Write,
}

/// Whether an endpoint serves.
#[derive(Clone, Debug)]
pub(crate) struct EndpointHealth {
    pub(crate) endpoint: String,
    pub(crate) is_healthy: bool,
    pub(crate) took: String,
    pub(crate) error: String,
}

/// The state of the member behind an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct EndpointStatus {
    pub(crate) endpoint: String,
    pub(crate) status: StatusResponse,
}

/// The history hash of the member behind an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct EndpointHashKv {
    pub(crate) endpoint: String,
    pub(crate) hash: HashKvResponse,
}

/// What a watch brought, or how it ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watched {
    pub(crate) header: ResponseHeader,
    pub(crate) events: Vec<Event>,
    pub(crate) compact_revision: i64,
    pub(crate) is_canceled: bool,
    pub(crate) cancel_reason: String,
}

/// An answer that says no more than that something was done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Done {
    /// What the simple format prints.
    line: String,
    header: Option<ResponseHeader>,
    /// A further field of a downgrade's answer.
    pub(crate) version: String,
    /// Whether etcdctl offers the fields format for it.
    has_fields: bool,
}

impl Done {
    pub(crate) fn new(line: impl Into<String>, header: Option<ResponseHeader>) -> Self {
        Done {
            line: line.into(),
            header,
            version: String::new(),
            has_fields: true,
        }
    }

    pub(crate) fn without_fields(line: String, header: Option<ResponseHeader>) -> Self {
        Done {
            has_fields: false,
            ..Done::new(line, header)
        }
    }
}

/// What a snapshot file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SnapshotStatus {
    /// CRC-32C over everything in it.
    pub(crate) hash: u32,
    pub(crate) revision: i64,
    /// Keys that exist at that revision.
    pub(crate) keys: usize,
    /// Bytes of the database, without the SHA-256.
    pub(crate) size: u64,
    /// Of etcd's storage; empty when the file does not say.
    pub(crate) version: String,
}

/// Prints answers in one format.
pub(crate) trait Printer {
    /// The format's name, for refusing what it does not offer.
    fn name(&self) -> &'static str;

    /// Leaves keys out from now on; false when the format cannot.
    fn print_values_only(&mut self) -> bool {
        false
    }

    fn put(&self, _to: &mut Streams<'_>, _answer: &PutResponse) -> Outcome {
        self.refuse()
    }

    fn get(&self, _to: &mut Streams<'_>, _answer: &RangeResponse) -> Outcome {
        self.refuse()
    }

    fn del(&self, _to: &mut Streams<'_>, _answer: &DeleteRangeResponse) -> Outcome {
        self.refuse()
    }

    fn txn(&self, _to: &mut Streams<'_>, _answer: &TxnResponse) -> Outcome {
        self.refuse()
    }

    fn watch(&self, _to: &mut Streams<'_>, _response: &Watched) -> Outcome {
        self.refuse()
    }

    fn alarm(&self, _to: &mut Streams<'_>, _answer: &AlarmResponse) -> Outcome {
        self.refuse()
    }

    fn lease_grant(&self, _to: &mut Streams<'_>, _answer: &LeaseGrantResponse) -> Outcome {
        self.refuse()
    }

    fn lease_revoke(
        &self,
        _to: &mut Streams<'_>,
        _id: i64,
        _answer: &LeaseRevokeResponse,
    ) -> Outcome {
        self.refuse()
    }

    fn lease_keep_alive(&self, _to: &mut Streams<'_>, _answer: &LeaseKeepAliveResponse) -> Outcome {
        self.refuse()
    }

    /// `keys`: whether the keys were asked for.
    fn lease_time_to_live(
        &self,
        _to: &mut Streams<'_>,
        _answer: &LeaseTimeToLiveResponse,
        _keys: bool,
    ) -> Outcome {
        self.refuse()
    }

    fn leases(&self, _to: &mut Streams<'_>, _answer: &LeaseLeasesResponse) -> Outcome {
        self.refuse()
    }

    fn done(&self, _to: &mut Streams<'_>, _done: &Done) -> Outcome {
        self.refuse()
    }

    fn member_add(&self, _to: &mut Streams<'_>, _answer: &MemberAddResponse) -> Outcome {
        self.refuse()
    }

    /// `line`: what the simple format prints.
    fn member_change(
        &self,
        _to: &mut Streams<'_>,
        _line: &str,
        _answer: &MemberListResponse,
    ) -> Outcome {
        self.refuse()
    }

    fn member_list(&self, _to: &mut Streams<'_>, _answer: &MemberListResponse) -> Outcome {
        self.refuse()
    }

    fn auth_status(&self, _to: &mut Streams<'_>, _answer: &AuthStatusResponse) -> Outcome {
        self.refuse()
    }

    fn user_get(&self, _to: &mut Streams<'_>, _name: &str, _: &AuthUserGetResponse) -> Outcome {
        self.refuse()
    }

    fn user_list(&self, _to: &mut Streams<'_>, _answer: &AuthUserListResponse) -> Outcome {
        self.refuse()
    }

    fn role_get(&self, _to: &mut Streams<'_>, _name: &str, _: &AuthRoleGetResponse) -> Outcome {
        self.refuse()
    }

    fn role_list(&self, _to: &mut Streams<'_>, _answer: &AuthRoleListResponse) -> Outcome {
        self.refuse()
    }

    fn endpoint_health(&self, _to: &mut Streams<'_>, _all: &[EndpointHealth]) -> Outcome {
        self.refuse()
    }

    fn endpoint_status(&self, _to: &mut Streams<'_>, _all: &[EndpointStatus]) -> Outcome {
        self.refuse()
    }

    fn endpoint_hashkv(&self, _to: &mut Streams<'_>, _all: &[EndpointHashKv]) -> Outcome {
        self.refuse()
    }

    fn autopilot(&self, _to: &mut Streams<'_>, _status: &Status) -> Outcome {
        self.refuse()
    }

    fn snapshot_status(&self, _to: &mut Streams<'_>, _status: &SnapshotStatus) -> Outcome {
        self.refuse()
    }

    fn refuse(&self) -> Outcome {
        Err(Failure::bad_feature(format!(
            "{} not supported as output format",
            self.name()
        )))
    }
}

/// The printer of a format, by its name on the command line.
pub(crate) fn printer(format: &str, hex: bool) -> Result<Box<dyn Printer>, Failure> {
    Ok(match format {
        "simple" => Box::new(simple::Simple::new(hex)),
        "json" => Box::new(json::Json { hex }),
        "fields" => Box::new(fields::Fields { hex }),
        "table" => Box::new(table::Table),
        "protobuf" => Box::new(protobuf::Protobuf),
        _ => return Err(Failure::bad_feature("unsupported output format")),
    })
}

/// A get's answer as it came from the server, for printing.
pub(crate) fn ranged(answer: GetResponse) -> RangeResponse {
    RangeResponse {
        header: answer.header,
        kvs: answer
            .kvs
            .iter()
            .map(|kv| kv.encode_to_vec().into())
            .collect(),
        more: answer.more,
        count: answer.count,
    }
}

fn decode(answer: &RangeResponse) -> Result<Vec<KeyValue>, Failure> {
    answer
        .decode_kvs()
        .map_err(|err| Failure::error(format!("the answer could not be decoded: {err}")))
}
