//! A member as etcd stores it: JSON, under its ID in hex.

use kvd_api::pb::etcdserverpb::Member;
use serde::Serialize;

#[derive(Serialize)]
struct Stored<'a> {
    id: u64,
    #[serde(rename = "peerURLs")]
    peer_urls: &'a [String],
    #[serde(rename = "isLearner", skip_serializing_if = "is_false")]
    is_learner: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(rename = "clientURLs", skip_serializing_if = "<[_]>::is_empty")]
    client_urls: &'a [String],
}

#[derive(Serialize)]
struct ConfState {
    voters: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    learners: Vec<u64>,
    auto_leave: bool,
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// The key of a member's entry.
pub(super) fn key(id: u64) -> String {
    format!("{id:x}")
}

/// The value of a member's entry.
pub(super) fn value(member: &Member) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&Stored {
        id: member.id,
        peer_urls: &member.peer_ur_ls,
        is_learner: member.is_learner,
        name: &member.name,
        client_urls: &member.client_ur_ls,
    })
}

/// Who votes, as etcd stores it with the log's position.
pub(super) fn conf_state(voters: Vec<u64>, learners: Vec<u64>) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&ConfState {
        voters,
        learners,
        auto_leave: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // The texts were found in snapshots of etcd 3.7.1.
    #[test]
    fn members_and_voters_are_written_as_etcd_does() {
        let mut member = Member {
            id: 7_383_792_418_829_112_008,
            name: "default".into(),
            peer_ur_ls: vec!["http://127.0.0.1:42380".into()],
            client_ur_ls: vec!["http://127.0.0.1:42379".into()],
            ..Member::default()
        };
        assert_eq!(key(member.id), "667880157b8812c8");
        let text = |member: &Member| String::from_utf8(value(member).unwrap()).unwrap();
        assert_eq!(
            text(&member),
            r#"{"id":7383792418829112008,"peerURLs":["http://127.0.0.1:42380"],"name":"default","clientURLs":["http://127.0.0.1:42379"]}"#
        );
        member.name.clear();
        member.client_ur_ls.clear();
        member.is_learner = true;
        assert_eq!(
            text(&member),
            r#"{"id":7383792418829112008,"peerURLs":["http://127.0.0.1:42380"],"isLearner":true}"#
        );
        assert_eq!(
            conf_state(vec![7], Vec::new()).unwrap(),
            br#"{"voters":[7],"auto_leave":false}"#
        );
    }
}
