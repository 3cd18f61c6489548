//! `protobuf`: the answer's encoding, and nothing else.

use kvd_api::wire::WatchResponse;
use kvd_client::RangeResponse;
use kvd_client::pb::{
    AlarmResponse, AuthRoleGetResponse, AuthRoleListResponse, AuthStatusResponse,
    AuthUserGetResponse, AuthUserListResponse, DeleteRangeResponse, DowngradeResponse,
    LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseRevokeResponse,
    LeaseTimeToLiveResponse, MemberAddResponse, MemberListResponse, PutResponse, ResponseHeader,
    TxnResponse,
};
use prost::Message;

use super::{Done, Printer, Streams, Watched};
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

    fn watch(&self, to: &mut Streams<'_>, response: &Watched) -> Outcome {
        let message = WatchResponse {
            header: Some(response.header),
            events: response
                .events
                .iter()
                .map(|event| event.encode_to_vec().into())
                .collect(),
            compact_revision: response.compact_revision,
            canceled: response.is_canceled,
            ..WatchResponse::default()
        };
        encoded(to, &message)
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

    fn done(&self, to: &mut Streams<'_>, done: &Done) -> Outcome {
        // All these answers have a header in the same place, and one of them has a version.
        let message = DowngradeResponse {
            header: done.header,
            version: done.version.clone(),
        };
        encoded(to, &message)
    }

    fn member_add(&self, to: &mut Streams<'_>, answer: &MemberAddResponse) -> Outcome {
        encoded(to, answer)
    }

    fn member_change(&self, to: &mut Streams<'_>, _: &str, answer: &MemberListResponse) -> Outcome {
        encoded(to, answer)
    }

    fn member_list(&self, to: &mut Streams<'_>, answer: &MemberListResponse) -> Outcome {
        encoded(to, answer)
    }

    fn auth_status(&self, to: &mut Streams<'_>, answer: &AuthStatusResponse) -> Outcome {
        encoded(to, answer)
    }

    fn user_get(&self, to: &mut Streams<'_>, _: &str, answer: &AuthUserGetResponse) -> Outcome {
        encoded(to, answer)
    }

    fn user_list(&self, to: &mut Streams<'_>, answer: &AuthUserListResponse) -> Outcome {
        encoded(to, answer)
    }

    fn role_get(&self, to: &mut Streams<'_>, _: &str, answer: &AuthRoleGetResponse) -> Outcome {
        encoded(to, answer)
    }

    fn role_list(&self, to: &mut Streams<'_>, answer: &AuthRoleListResponse) -> Outcome {
        encoded(to, answer)
    }
}
