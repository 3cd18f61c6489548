//! Each format against the text that etcdctl 3.7.1 printed for the same answer.

use bytes::Bytes;
use kvd_client::pb::response_op::Response;
use kvd_client::pb::{AlarmMember, AlarmType, Member, ResponseHeader, ResponseOp};
use prost::Message as _;

use super::*;

const HEADER: ResponseHeader = ResponseHeader {
    cluster_id: 324952591200643719,
    member_id: 3319814642761637952,
    revision: 5,
    raft_term: 2,
};

fn shown(
    format: &str,
    hex: bool,
    print: impl Fn(&dyn Printer, &mut Streams<'_>) -> Outcome,
) -> String {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let printer = printer(format, hex).expect("format");
    let mut to = Streams {
        out: &mut out,
        err: &mut err,
    };
    print(&*printer, &mut to).expect("printed");
    assert!(err.is_empty(), "{}", String::from_utf8_lossy(&err));
    String::from_utf8_lossy(&out).into_owned()
}

fn pair(key: &'static [u8], value: &'static [u8]) -> KeyValue {
    KeyValue {
        key: Bytes::from_static(key),
        value: Bytes::from_static(value),
        create_revision: 3,
        mod_revision: 5,
        version: 3,
        lease: 0,
    }
}

fn get_answer() -> RangeResponse {
    RangeResponse {
        header: Some(HEADER),
        kvs: vec![pair(b"key1", b"over\n\xff").encode_to_vec().into()],
        more: false,
        count: 1,
    }
}

#[test]
fn get_in_every_format() {
    let get = |format, hex| shown(format, hex, |printer, to| printer.get(to, &get_answer()));
    assert_eq!(get("simple", false), "key1\nover\n\u{fffd}\n");
    assert_eq!(
        get("simple", true),
        "\\x6b\\x65\\x79\\x31\n\\x6f\\x76\\x65\\x72\\x0a\\xff\n"
    );
    let json = "{\"header\":{\"cluster_id\":324952591200643719,\
        \"member_id\":3319814642761637952,\"revision\":5,\"raft_term\":2},\
        \"kvs\":[{\"key\":\"a2V5MQ==\",\"create_revision\":3,\"mod_revision\":5,\"version\":3,\
        \"value\":\"b3Zlcgr/\"}],\"count\":1}\n";
    assert_eq!(get("json", false), json);
    // Only member commands print hexadecimal IDs.
    assert_eq!(get("json", true), json);
    let fields = "\"ClusterID\" : 324952591200643719\n\"MemberID\" : 3319814642761637952\n\
        \"Revision\" : 5\n\"RaftTerm\" : 2\n\"Key\" : \"key1\"\n\"CreateRevision\" : 3\n\
        \"ModRevision\" : 5\n\"Version\" : 3\n\"Value\" : \"over\\n\\xff\"\n\"Lease\" : 0\n\
        \"More\" : false\n\"Count\" : 1\n";
    assert_eq!(get("fields", false), fields);
    let fields_hex = fields
        .replace("324952591200643719", "48276a8f75b6a87")
        .replace("3319814642761637952", "2e1259d415f2a040")
        .replace("\"Lease\" : 0", "\"Lease\" : 0000000000000000");
    assert_eq!(get("fields", true), fields_hex);
    let encoded = get_answer().encode_to_vec();
    assert_eq!(get("protobuf", false), String::from_utf8_lossy(&encoded));
}

#[test]
fn values_only_leaves_keys_out() {
    let mut simple = printer("simple", false).expect("format");
    assert!(simple.print_values_only());
    let (mut out, mut err) = (Vec::new(), Vec::new());
    simple
        .get(
            &mut Streams {
                out: &mut out,
                err: &mut err,
            },
            &get_answer(),
        )
        .expect("printed");
    assert_eq!(out, b"over\n\xff\n");
    for format in ["json", "fields", "table", "protobuf"] {
        assert!(
            !printer(format, false).expect("format").print_values_only(),
            "{format}"
        );
    }
}

#[test]
fn put_and_del_print_what_was_there() {
    let put = PutResponse {
        header: Some(HEADER),
        prev_kv: Some(pair(b"a", b"1")),
    };
    assert_eq!(
        shown("simple", false, |p, to| p.put(to, &put)),
        "OK\na\n1\n"
    );
    let json = shown("json", false, |p, to| p.put(to, &put));
    assert!(
        json.contains("\"prev_kv\":{\"key\":\"YQ==\",\"create_revision\":3"),
        "{json}"
    );
    let fields = shown("fields", false, |p, to| p.put(to, &put));
    assert!(
        fields.contains("\"PrevKey\" : \"a\"\n\"PrevCreateRevision\" : 3\n"),
        "{fields}"
    );

    let del = DeleteRangeResponse {
        header: Some(HEADER),
        deleted: 1,
        prev_kvs: vec![pair(b"a", b"1")],
    };
    assert_eq!(shown("simple", false, |p, to| p.del(to, &del)), "1\na\n1\n");
    let fields = shown("fields", false, |p, to| p.del(to, &del));
    assert!(
        fields.contains("\"Deleted\" : 1\n\"PrevKey\" : \"a\"\n"),
        "{fields}"
    );
}

#[test]
fn txn_in_every_format() {
    let inner = Some(ResponseHeader {
        revision: 5,
        ..Default::default()
    });
    let responses = [
        Response::ResponsePut(PutResponse {
            header: inner,
            prev_kv: None,
        }),
        Response::ResponseRange(RangeResponse {
            header: inner,
            count: 0,
            ..Default::default()
        }),
        Response::ResponseDeleteRange(DeleteRangeResponse {
            header: inner,
            deleted: 2,
            prev_kvs: Vec::new(),
        }),
    ];
    let answer = TxnResponse {
        header: Some(HEADER),
        succeeded: true,
        responses: responses
            .map(|response| ResponseOp {
                response: Some(response),
            })
            .to_vec(),
    };
    let txn = |format| shown(format, false, |p, to| p.txn(to, &answer));
    assert_eq!(txn("simple"), "SUCCESS\n\nOK\n\n\n2\n");
    assert_eq!(
        txn("json"),
        "{\"header\":{\"cluster_id\":324952591200643719,\"member_id\":3319814642761637952,\
         \"revision\":5,\"raft_term\":2},\"succeeded\":true,\"responses\":[\
         {\"Response\":{\"response_put\":{\"header\":{\"revision\":5}}}},\
         {\"Response\":{\"response_range\":{\"header\":{\"revision\":5}}}},\
         {\"Response\":{\"response_delete_range\":{\"header\":{\"revision\":5},\"deleted\":2}}}]}\n"
    );
    assert!(txn("fields").ends_with(
        "\"Succeeded\" : true\n\"ClusterID\" : 0\n\"MemberID\" : 0\n\"Revision\" : 5\n\
         \"RaftTerm\" : 0\n\"ClusterID\" : 0\n\"MemberID\" : 0\n\"Revision\" : 5\n\
         \"RaftTerm\" : 0\n\"More\" : false\n\"Count\" : 0\n\"ClusterID\" : 0\n\"MemberID\" : 0\n\
         \"Revision\" : 5\n\"RaftTerm\" : 0\n\"Deleted\" : 2\n"
    ));
}

#[test]
fn members_in_every_format() {
    let header = ResponseHeader {
        revision: 0,
        ..HEADER
    };
    let member = Member {
        id: 3319814642761637952,
        name: "m1".into(),
        peer_ur_ls: vec!["http://127.0.0.1:23800".into()],
        client_ur_ls: vec!["http://127.0.0.1:23790".into()],
        is_learner: false,
    };
    let answer = MemberListResponse {
        header: Some(header),
        members: vec![member],
    };
    let list = |format, hex| shown(format, hex, |p, to| p.member_list(to, &answer));
    assert_eq!(
        list("simple", false),
        "2e1259d415f2a040, started, m1, http://127.0.0.1:23800, http://127.0.0.1:23790, false\n"
    );
    assert_eq!(
        list("json", true),
        "{\"header\":{\"cluster_id\":\"48276a8f75b6a87\",\"member_id\":\"2e1259d415f2a040\",\
         \"raft_term\":2},\"members\":[{\"ID\":\"2e1259d415f2a040\",\"name\":\"m1\",\
         \"peerURLs\":[\"http://127.0.0.1:23800\"],\"clientURLs\":[\"http://127.0.0.1:23790\"]}]}\n"
    );
    assert_eq!(
        list("fields", true),
        "\"ClusterID\" : 48276a8f75b6a87\n\"MemberID\" : 2e1259d415f2a040\n\"RaftTerm\" : 2\n\
         \"ID\" : 2e1259d415f2a040\n\"Name\" : \"m1\"\n\"PeerURL\" : \"http://127.0.0.1:23800\"\n\
         \"ClientURL\" : \"http://127.0.0.1:23790\"\n\"IsLearner\" : false\n\n"
    );
    assert_eq!(
        list("table", false),
        "\
┌──────────────────┬─────────┬──────┬────────────────────────┬────────────────────────┬────────────┐
│        ID        │ STATUS  │ NAME │       PEER ADDRS       │      CLIENT ADDRS      │ IS LEARNER │
├──────────────────┼─────────┼──────┼────────────────────────┼────────────────────────┼────────────┤
│ 2e1259d415f2a040 │ started │   m1 │ http://127.0.0.1:23800 │ http://127.0.0.1:23790 │      false │
└──────────────────┴─────────┴──────┴────────────────────────┴────────────────────────┴────────────┘
"
    );
}

#[test]
fn endpoints_in_every_format() {
    let status = StatusResponse {
        header: Some(HEADER),
        version: "3.7.1".into(),
        storage_version: "3.7.0".into(),
        db_size: 20480,
        db_size_in_use: 16384,
        db_size_quota: 2147483648,
        leader: HEADER.member_id,
        raft_index: 10,
        raft_term: 2,
        raft_applied_index: 10,
        downgrade_info: Some(Default::default()),
        ..Default::default()
    };
    let all = [EndpointStatus {
        endpoint: "127.0.0.1:23790".into(),
        status,
    }];
    let list = |format| shown(format, false, |p, to| p.endpoint_status(to, &all));
    assert_eq!(
        list("simple"),
        "127.0.0.1:23790, 2e1259d415f2a040, 3.7.1, 3.7.0, 20 kB, 16 kB, 20%, 2.1 GB, true, false, \
         2, 10, 10, , , false\n"
    );
    assert_eq!(
        list("json"),
        "[{\"Endpoint\":\"127.0.0.1:23790\",\"Status\":{\"header\":{\
         \"cluster_id\":324952591200643719,\"member_id\":3319814642761637952,\"revision\":5,\
         \"raft_term\":2},\"version\":\"3.7.1\",\"dbSize\":20480,\"leader\":3319814642761637952,\
         \"raftIndex\":10,\"raftTerm\":2,\"raftAppliedIndex\":10,\"dbSizeInUse\":16384,\
         \"storageVersion\":\"3.7.0\",\"dbSizeQuota\":2147483648,\"downgradeInfo\":{}}}]\n"
    );
    assert!(list("fields").ends_with(
        "\"RaftIndex\" : 10\n\"RaftTerm\" : 2\n\"RaftAppliedIndex\" : 10\n\"Errors\" : []\n\
         \"Endpoint\" : \"127.0.0.1:23790\"\n\"DowngradeTargetVersion\" : \"\"\n\
         \"DowngradeEnabled\" : false\n\n"
    ));

    let hash = HashKvResponse {
        header: Some(HEADER),
        hash: 3305255506,
        compact_revision: -1,
        hash_revision: 2,
    };
    let all = [EndpointHashKv {
        endpoint: "127.0.0.1:23790".into(),
        hash,
    }];
    let list = |format| shown(format, false, |p, to| p.endpoint_hashkv(to, &all));
    assert_eq!(list("simple"), "127.0.0.1:23790, 3305255506, 2\n");
    assert!(
        list("json")
            .ends_with("\"hash\":3305255506,\"compact_revision\":-1,\"hash_revision\":2}}]\n")
    );
    assert_eq!(
        shown("json", false, |p, to| p.endpoint_hashkv(to, &[])),
        "null\n"
    );
    assert_eq!(
        shown("table", false, |p, to| p.endpoint_hashkv(to, &[])),
        "\
┌──────────┬──────┬───────────────┐
│ ENDPOINT │ HASH │ HASH REVISION │
└──────────┴──────┴───────────────┘
"
    );

    let health = [EndpointHealth {
        endpoint: "a:1".into(),
        is_healthy: true,
        took: "3.015442ms".into(),
        error: String::new(),
    }];
    let list = |format| shown(format, false, |p, to| p.endpoint_health(to, &health));
    assert_eq!(
        list("simple"),
        "a:1 is healthy: successfully committed proposal: took = 3.015442ms\n"
    );
    assert_eq!(
        list("json"),
        "[{\"endpoint\":\"a:1\",\"health\":true,\"took\":\"3.015442ms\"}]\n"
    );
    assert_eq!(
        list("fields"),
        "\"Endpoint\" : \"a:1\"\n\"Health\" : true\n\"Took\" : 3.015442ms\n\"Error\" : \n\n"
    );
}

#[test]
fn alarms_in_every_format() {
    let alarm = AlarmMember {
        member_id: 7,
        alarm: AlarmType::Nospace.into(),
    };
    let answer = AlarmResponse {
        header: Some(HEADER),
        alarms: vec![alarm],
    };
    let list = |format| shown(format, false, |p, to| p.alarm(to, &answer));
    assert_eq!(list("simple"), "memberID:7 alarm:NOSPACE\n");
    assert!(list("json").ends_with(",\"alarms\":[{\"memberID\":7,\"alarm\":1}]}\n"));
    assert!(list("fields").ends_with("\"MemberID\" : 7\n\"AlarmType\" : NOSPACE\n\n"));
    let none = AlarmResponse::default();
    assert_eq!(shown("json", false, |p, to| p.alarm(to, &none)), "{}\n");
}

#[test]
fn formats_refuse_what_etcdctl_refuses() {
    let refused = |format: &str, print: fn(&dyn Printer, &mut Streams<'_>) -> Outcome| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let printer = printer(format, false).expect("format");
        print(
            &*printer,
            &mut Streams {
                out: &mut out,
                err: &mut err,
            },
        )
        .expect_err("refused")
    };
    let failure = refused("table", |p, to| p.put(to, &PutResponse::default()));
    assert_eq!(
        failure,
        Failure::bad_feature("table not supported as output format")
    );
    let failure = refused("protobuf", |p, to| p.endpoint_health(to, &[]));
    assert_eq!(
        failure,
        Failure::bad_feature("protobuf not supported as output format")
    );
    let failure = printer("bogus", false).err().expect("unknown");
    assert_eq!(failure, Failure::bad_feature("unsupported output format"));
}

#[test]
fn watch_in_every_format() {
    let response = Watched {
        header: HEADER,
        events: vec![
            Event {
                r#type: 0,
                kv: Some(pair(b"a", b"1")),
                prev_kv: Some(pair(b"a", b"0")),
            },
            Event {
                r#type: 1,
                kv: Some(KeyValue {
                    key: Bytes::from_static(b"a"),
                    mod_revision: 6,
                    ..KeyValue::default()
                }),
                prev_kv: None,
            },
        ],
        ..Watched::default()
    };
    let print = |format| shown(format, false, |p, to| p.watch(to, &response));
    assert_eq!(print("simple"), "PUT\na\n0\na\n1\nDELETE\na\n\n");
    assert_eq!(
        print("json"),
        "{\"Header\":{\"cluster_id\":324952591200643719,\"member_id\":3319814642761637952,\
         \"revision\":5,\"raft_term\":2},\"Events\":[{\"kv\":{\"key\":\"YQ==\",\
         \"create_revision\":3,\"mod_revision\":5,\"version\":3,\"value\":\"MQ==\"},\
         \"prev_kv\":{\"key\":\"YQ==\",\"create_revision\":3,\"mod_revision\":5,\"version\":3,\
         \"value\":\"MA==\"}},{\"type\":1,\"kv\":{\"key\":\"YQ==\",\"mod_revision\":6}}],\
         \"CompactRevision\":0,\"Canceled\":false,\"Created\":false,\"CancelReason\":\"\"}\n"
    );
    let fields = print("fields");
    assert!(
        fields.contains("\"RaftTerm\" : 2\n\"Type\" : PUT\n\"PrevKey\" : \"a\"\n"),
        "{fields}"
    );
    assert!(
        fields.contains("\"Type\" : DELETE\n\"Key\" : \"a\"\n"),
        "{fields}"
    );
    let canceled = Watched {
        header: HEADER,
        compact_revision: 4,
        is_canceled: true,
        ..Watched::default()
    };
    let json = shown("json", false, |p, to| p.watch(to, &canceled));
    assert!(
        json.ends_with(
            "\"Events\":null,\"CompactRevision\":4,\"Canceled\":true,\"Created\":false,\
             \"CancelReason\":\"\"}\n"
        ),
        "{json}"
    );
    let table = printer("table", false).expect("format");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut to = Streams {
        out: &mut out,
        err: &mut err,
    };
    assert!(table.watch(&mut to, &response).is_err());
}

#[test]
fn snapshot_status_in_every_format() {
    let status = SnapshotStatus {
        hash: 0x8176_5cba,
        revision: 2,
        keys: 1,
        size: 20_480,
        version: "3.7.0".to_owned(),
    };
    let print = |format| shown(format, false, |p, to| p.snapshot_status(to, &status));
    assert_eq!(print("simple"), "81765cba, 2, 1, 20 kB, 3.7.0\n");
    assert_eq!(
        print("json"),
        "{\"hash\":2172017850,\"revision\":2,\"totalKey\":1,\"totalSize\":20480,\
         \"version\":\"3.7.0\"}\n"
    );
    assert_eq!(
        print("fields"),
        "\"Hash\" : 2172017850\n\"Revision\" : 2\n\"Keys\" : 1\n\"Size\" : 20480\n\
         \"Version\" : 3.7.0\n"
    );
    assert!(print("table").contains("│ 81765cba │        2 │"));
}

#[test]
fn roles_and_permissions_are_printed_as_in_etcdctl() {
    use kvd_client::pb::AuthRoleGetResponse;
    let permission = |kind, key: &'static [u8], end: &'static [u8]| kvd_client::Permission {
        perm_type: kind,
        key: Bytes::from_static(key),
        range_end: Bytes::from_static(end),
    };
    let answer = AuthRoleGetResponse {
        header: Some(HEADER),
        perm: vec![
            permission(0, b"a", b""),
            permission(1, b"b", b"d"),
            permission(2, b"p", b"q"),
            permission(0, b"z", b"\0"),
        ],
    };
    let simple = shown("simple", false, |p, to| p.role_get(to, "r", &answer));
    assert_eq!(
        simple,
        "Role r\nKV Read:\n\ta\n\t[p, q) (prefix p)\n\t[z, <open ended>\n\
         KV Write:\n\t[b, d)\n\t[p, q) (prefix p)\n"
    );
    let json = shown("json", false, |p, to| p.role_get(to, "r", &answer));
    assert!(
        json.ends_with(
            "\"perm\":[{\"key\":\"YQ==\"},{\"permType\":1,\"key\":\"Yg==\",\
             \"range_end\":\"ZA==\"},{\"permType\":2,\"key\":\"cA==\",\"range_end\":\"cQ==\"},\
             {\"key\":\"eg==\",\"range_end\":\"AA==\"}]}\n"
        ),
        "{json}"
    );
    let root = AuthRoleGetResponse::default();
    assert_eq!(
        shown("simple", false, |p, to| p.role_get(to, "root", &root)),
        "Role root\nKV Read:\n\t[, <open ended>\nKV Write:\n\t[, <open ended>\n"
    );
}
