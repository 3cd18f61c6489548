use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use prost_reflect::DescriptorPool;

use super::*;

fn pool() -> DescriptorPool {
    DescriptorPool::decode(kvd_api::DESCRIPTORS).expect("descriptors decode")
}

fn message(name: &str) -> MessageDescriptor {
    pool()
        .get_message_by_name(name)
        .expect("the message exists")
}

/// Reads JSON as a message and writes it again.
fn round(name: &str, json: &str) -> Result<String> {
    let descriptor = message(name);
    let bytes = decode(&descriptor, json.as_bytes())?;
    let mut out = Vec::new();
    encode(&descriptor, bytes.into(), &mut out)?;
    Ok(String::from_utf8(out).expect("JSON is UTF-8"))
}

#[test]
fn reads_and_writes_as_etcd_does() {
    let range = "etcdserverpb.RangeRequest";
    let txn = "etcdserverpb.TxnRequest";
    let watch = "etcdserverpb.WatchRequest";
    for (name, json, want) in [
        // An empty body, and one of nothing but space.
        (range, "", "{}"),
        (range, " \n", "{}"),
        // Names in either form; 64-bit integers as strings, numbers, numbers with an exponent.
        (range, r#"{"range_end":"Zm9v"}"#, r#"{"range_end":"Zm9v"}"#),
        (range, r#"{"rangeEnd":"Zm9v"}"#, r#"{"range_end":"Zm9v"}"#),
        (range, r#"{"limit":"7"}"#, r#"{"limit":"7"}"#),
        (range, r#"{"limit":7}"#, r#"{"limit":"7"}"#),
        (range, r#"{"limit":1e1}"#, r#"{"limit":"10"}"#),
        (range, r#"{"limit":"1e1"}"#, r#"{"limit":"10"}"#),
        (
            range,
            r#"{"limit":"-9223372036854775808"}"#,
            r#"{"limit":"-9223372036854775808"}"#,
        ),
        (
            range,
            r#"{"limit":9007199254740993}"#,
            r#"{"limit":"9007199254740993"}"#,
        ),
        // Enums by name or number; an unknown name is an unknown field.
        (
            range,
            r#"{"sort_order":"DESCEND"}"#,
            r#"{"sort_order":"DESCEND"}"#,
        ),
        (range, r#"{"sortOrder":2}"#, r#"{"sort_order":"DESCEND"}"#),
        (range, r#"{"sort_order":"SIDEWAYS"}"#, "{}"),
        (range, r#"{"sort_order":77}"#, r#"{"sort_order":77}"#),
        // Unknown fields, null, zero values, and what follows the first value.
        (
            range,
            r#"{"nope":{"a":[1,null]},"key":"Zm9v"}"#,
            r#"{"key":"Zm9v"}"#,
        ),
        (
            range,
            r#"{"key":null,"limit":0,"serializable":false}"#,
            "{}",
        ),
        (range, r#"{"key":"Zm9v"} garbage"#, r#"{"key":"Zm9v"}"#),
        // Base64 of both alphabets, with and without padding, with line breaks.
        (range, r#"{"key":"-_8="}"#, r#"{"key":"+/8="}"#),
        (range, r#"{"key":"+/8"}"#, r#"{"key":"+/8="}"#),
        (range, r#"{"key":"Zm\n9v"}"#, r#"{"key":"Zm9v"}"#),
        // A field of a oneof is written even when it is zero.
        (
            txn,
            r#"{"compare":[{"version":"0"}]}"#,
            r#"{"compare":[{"version":"0"}]}"#,
        ),
        (
            txn,
            r#"{"success":[{"requestPut":{}}]}"#,
            r#"{"success":[{"request_put":{}}]}"#,
        ),
        (
            watch,
            r#"{"cancel_request":{"watch_id":1}}"#,
            r#"{"cancel_request":{"watch_id":"1"}}"#,
        ),
        (
            watch,
            r#"{"create_request":{"filters":["NODELETE","NOSUCH",0]}}"#,
            r#"{"create_request":{"filters":["NODELETE","NOPUT"]}}"#,
        ),
        // 32-bit integers are numbers.
        (
            "etcdserverpb.HashResponse",
            r#"{"hash":"4294967295"}"#,
            r#"{"hash":4294967295}"#,
        ),
        (
            "etcdserverpb.MemberListRequest",
            r#"{"linearizable":true}"#,
            r#"{"linearizable":true}"#,
        ),
        (
            "etcdserverpb.LeaseGrantResponse",
            r#"{"ID":1,"TTL":"2"}"#,
            r#"{"ID":"1","TTL":"2"}"#,
        ),
    ] {
        assert_eq!(round(name, json).as_deref(), Ok(want), "{name} {json}");
    }
}

#[test]
fn says_what_is_wrong_and_where() {
    let range = "etcdserverpb.RangeRequest";
    for (name, json, want) in [
        (range, r#"{"key":"Zm9v""#, "unexpected EOF"),
        (
            range,
            r#"{"key":"Zm9v","key":"Zm9v"}"#,
            "duplicate field \"key\"",
        ),
        (
            range,
            r#"{"rangeEnd":"","range_end":""}"#,
            "duplicate field \"range_end\"",
        ),
        (
            range,
            r#"{"key":"%%%"}"#,
            "invalid value for bytes field key: \"%%%\"",
        ),
        // Padding that is not whole, a line break that makes it so, and none where one is due.
        (range, r#"{"key":"Zg="}"#, "bytes field key: \"Zg=\""),
        (range, r#"{"key":"Zg==\n"}"#, "bytes field key: \"Zg==\\n\""),
        (range, r#"{"key":"Zm8\n"}"#, "bytes field key: \"Zm8\\n\""),
        (
            range,
            r#"{"key":5}"#,
            "invalid value for bytes field key: 5",
        ),
        (
            range,
            r#"{"limit":"abc"}"#,
            "invalid value for int64 field limit: \"abc\"",
        ),
        (
            range,
            r#"{"limit":" 1"}"#,
            "invalid value for int64 field limit: \" 1\"",
        ),
        (
            range,
            r#"{"limit":1.5}"#,
            "invalid value for int64 field limit: 1.5",
        ),
        (
            range,
            r#"{"limit":9223372036854775808}"#,
            "invalid value for int64 field limit",
        ),
        (
            range,
            r#"{"limit":1e40}"#,
            "invalid value for int64 field limit",
        ),
        (
            range,
            r#"{"serializable":"true"}"#,
            "invalid value for bool field serializable",
        ),
        (range, "[]", "(line 1:"),
        (range, "null", "(line 1:"),
        (range, "{nope}", "syntax error (line 1:2)"),
        (
            "etcdserverpb.TxnRequest",
            r#"{"compare":{}}"#,
            "a list for field compare",
        ),
        ("etcdserverpb.TxnRequest", r#"{"compare":[null]}"#, "null"),
        (
            "etcdserverpb.TxnRequest",
            r#"{"compare":[{"version":1,"lease":1}]}"#,
            "oneof etcdserverpb.Compare.target_union is already set",
        ),
    ] {
        match round(name, json) {
            Err(Error::BadJson(text)) => assert!(text.contains(want), "{json}: {text}"),
            other => panic!("{json}: {other:?}"),
        }
    }
}

#[test]
fn deep_nesting_is_an_error() {
    let json = r#"{"success":[{"request_txn":"#.repeat(1000);
    assert!(matches!(
        round("etcdserverpb.TxnRequest", &json),
        Err(Error::BadJson(_))
    ));
}

/// Any value of a field's kind; messages are nested at most `depth` deep.
fn any_value(kind: &Kind, depth: usize) -> BoxedStrategy<Value> {
    match kind {
        Kind::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Kind::String => any::<String>().prop_map(Value::String).boxed(),
        Kind::Bytes => any::<Vec<u8>>()
            .prop_map(|bytes| Value::Bytes(bytes.into()))
            .boxed(),
        Kind::Int32 => any::<i32>().prop_map(Value::I32).boxed(),
        Kind::Int64 => any::<i64>().prop_map(Value::I64).boxed(),
        Kind::Uint32 => any::<u32>().prop_map(Value::U32).boxed(),
        Kind::Uint64 => any::<u64>().prop_map(Value::U64).boxed(),
        Kind::Enum(_) => (0..6_i32).prop_map(Value::EnumNumber).boxed(),
        Kind::Message(message) => any_message(message, depth).prop_map(Value::Message).boxed(),
        kind => panic!("etcd's API has no {kind:?}"),
    }
}

/// Any message: each field is set or not.
fn any_message(descriptor: &MessageDescriptor, depth: usize) -> BoxedStrategy<DynamicMessage> {
    let descriptor = descriptor.clone();
    let mut message = Just(DynamicMessage::new(descriptor.clone())).boxed();
    for field in descriptor.fields() {
        let is_message = matches!(field.kind(), Kind::Message(_));
        if is_message && depth == 0 {
            continue;
        }
        let one = any_value(&field.kind(), depth.saturating_sub(1));
        let value = if field.is_list() {
            proptest::collection::vec(one, 0..3)
                .prop_map(Value::List)
                .boxed()
        } else {
            one
        };
        message = (message, proptest::option::of(value))
            .prop_map(move |(mut message, value)| {
                if let Some(value) = value {
                    message.set_field(&field, value);
                }
                message
            })
            .boxed();
    }
    message
}

#[test]
fn every_message_survives_json() {
    // A failing case prints its seed and its smallest form.
    for descriptor in pool().all_messages() {
        let mut runner = TestRunner::new(Config {
            cases: 12,
            ..Config::default()
        });
        let result = runner.run(&any_message(&descriptor, 2), |message| {
            let bytes = message.encode_to_vec();
            let mut json = Vec::new();
            encode(&descriptor, bytes.clone().into(), &mut json).expect("it can be written");
            let back = decode(&descriptor, &json).expect("it can be read");
            prop_assert!(back == bytes, "{}", String::from_utf8_lossy(&json));
            Ok(())
        });
        match result {
            Ok(()) => {}
            // The value itself would print its descriptors, page after page.
            Err(TestError::Fail(why, _)) => panic!("{}: {why}", descriptor.full_name()),
            Err(error) => panic!("{}: {error}", descriptor.full_name()),
        }
    }
}

#[test]
fn objects_are_cut_out_wherever_the_body_is_split() {
    let first = r#" {"a":"}\"{","b":[{},[]]}"#;
    let second = "\n{}";
    let body = format!("{first}{second}  ");
    for piece in 1..=body.len() {
        let (mut scanner, mut buffer, mut objects) = (ObjectScanner::default(), vec![], vec![]);
        for data in body.as_bytes().chunks(piece) {
            buffer.extend_from_slice(data);
            while let Some(end) = scanner.next_end(&buffer).expect("objects only") {
                objects.push(buffer.drain(..end).collect::<Vec<_>>());
            }
        }
        assert_eq!(
            objects,
            [first.as_bytes(), second.as_bytes()],
            "in pieces of {piece}"
        );
    }
    for bad in ["[1]", "}", "null", "\"{\""] {
        let cut = ObjectScanner::default().next_end(bad.as_bytes());
        assert!(matches!(cut, Err(Error::BadJson(_))), "{bad}");
    }
}

proptest! {
    #[test]
    fn no_body_panics(body in any::<Vec<u8>>()) {
        let descriptor = message("etcdserverpb.TxnRequest");
        let _ = decode(&descriptor, &body);
        let _ = ObjectScanner::default().next_end(&body);
        let _ = encode(&descriptor, body.into(), &mut Vec::new());
    }
}
