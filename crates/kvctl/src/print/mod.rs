//! Answers as text: one trait, one implementation a format.
//!
//! What is printed equals etcdctl's output to the byte. A format that etcdctl does not offer for an
//! answer is refused after the request was made, with its exit code, as etcdctl does.

use std::io::Write;

use kvd_client::pb::{
    AlarmResponse, DeleteRangeResponse, HashKvResponse, LeaseGrantResponse, LeaseKeepAliveResponse,
    LeaseLeasesResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse, MemberListResponse,
    PutResponse, StatusResponse, TxnResponse,
};
use kvd_client::{KeyValue, RangeResponse};

use crate::failure::{Failure, Outcome};

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

    fn member_list(&self, _to: &mut Streams<'_>, _answer: &MemberListResponse) -> Outcome {
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

fn decode(answer: &RangeResponse) -> Result<Vec<KeyValue>, Failure> {
    answer
        .decode_kvs()
        .map_err(|err| Failure::error(format!("the answer could not be decoded: {err}")))
}
