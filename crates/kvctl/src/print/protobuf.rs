//! `protobuf`: the answer's encoding, and nothing else.

use kvd_client::RangeResponse;
use kvd_client::pb::{
    AlarmResponse, DeleteRangeResponse, LeaseGrantResponse, LeaseKeepAliveResponse,
    LeaseLeasesResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse, MemberListResponse,
    PutResponse, ResponseHeader, TxnResponse,
};
use prost::Message;

use super::{Printer, Streams};
use crate::failure::Outcome;

pub(super) struct Protobuf;

fn encoded(to: &mut Streams<'_>, answer: &impl Message) -> Outcome {
    to.out.write_all(&answer.encode_to_vec())?;
    Ok(())
}

/// What etcdctl prints of most answers about leases: their header alone.
fn header(to: &mut Streams<'_>, header: Option<ResponseHeader>) -> Outcome {
    encoded(to, &header.unwrap_or_default())
}

impl Printer for Protobuf {
    fn name(&self) -> &'static str {
        "protobuf"
    }

    fn put(&self, to: &mut Streams<'_>, answer: &PutResponse) -> Outcome {
        encoded(to, answer)
    }

    fn get(&self, to: &mut Streams<'_>, answer: &RangeResponse) -> Outcome {
        encoded(to, answer)
    }

    fn del(&self, to: &mut Streams<'_>, answer: &DeleteRangeResponse) -> Outcome {
        encoded(to, answer)
    }

    fn txn(&self, to: &mut Streams<'_>, answer: &TxnResponse) -> Outcome {
        encoded(to, answer)
    }

    fn alarm(&self, to: &mut Streams<'_>, answer: &AlarmResponse) -> Outcome {
        encoded(to, answer)
    }

    fn lease_grant(&self, to: &mut Streams<'_>, answer: &LeaseGrantResponse) -> Outcome {
        header(to, answer.header)
    }

    fn lease_revoke(&self, to: &mut Streams<'_>, _: i64, answer: &LeaseRevokeResponse) -> Outcome {
        encoded(to, answer)
    }

    fn lease_keep_alive(&self, to: &mut Streams<'_>, answer: &LeaseKeepAliveResponse) -> Outcome {
        header(to, answer.header)
    }

    fn lease_time_to_live(
        &self,
        to: &mut Streams<'_>,
        answer: &LeaseTimeToLiveResponse,
        _: bool,
    ) -> Outcome {
        header(to, answer.header)
    }

    fn leases(&self, to: &mut Streams<'_>, answer: &LeaseLeasesResponse) -> Outcome {
        header(to, answer.header)
    }

    fn member_list(&self, to: &mut Streams<'_>, answer: &MemberListResponse) -> Outcome {
        encoded(to, answer)
    }
}
