//! `protobuf`: the answer's encoding, and nothing else.

use kvd_client::RangeResponse;
use kvd_client::pb::{
    AlarmResponse, DeleteRangeResponse, MemberListResponse, PutResponse, TxnResponse,
};
use prost::Message;

use super::{Printer, Streams};
use crate::failure::Outcome;

pub(super) struct Protobuf;

fn encoded(to: &mut Streams<'_>, answer: &impl Message) -> Outcome {
    to.out.write_all(&answer.encode_to_vec())?;
    Ok(())
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

    fn member_list(&self, to: &mut Streams<'_>, answer: &MemberListResponse) -> Outcome {
        encoded(to, answer)
    }
}
