//! Events as Go's `encoding/json` writes etcd's.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use kvd_api::pb::kvdcommandpb::{V2Event, V2Node};

/// One event in one line. `no_value`: the nodes are left out of what sets a value.
pub(super) fn event(event: &V2Event, no_value: bool) -> String {
    let mut text = String::from("{\"action\":");
    string(event.action.as_bytes(), &mut text);
    let sets = matches!(
        &event.action[..],
        "set" | "compareAndSwap" | "create" | "update"
    );
    if !(no_value && sets) {
        for (name, told) in [("node", &event.node), ("prevNode", &event.prev_node)] {
            if let Some(told) = told {
                // Writing to a String cannot fail.
                let _ = write!(text, ",\"{name}\":");
                node(told, &mut text);
            }
        }
    }
    text.push_str("}\n");
    text
}

fn node(told: &V2Node, text: &mut String) {
    text.push('{');
    let next = |text: &mut String, name: &str| {
        if !text.ends_with('{') {
            text.push(',');
        }
        let _ = write!(text, "\"{name}\":");
    };
    if !told.key.is_empty() {
        next(text, "key");
        string(&told.key, text);
    }
    if told.has_value {
        next(text, "value");
        string(&told.value, text);
    }
    if told.dir {
        next(text, "dir");
        text.push_str("true");
    }
    if told.expiration != 0 {
        next(text, "expiration");
        let _ = write!(text, "\"{}\"", time(told.expiration));
    }
    for (name, number) in [("ttl", told.ttl)] {
        if number != 0 {
            next(text, name);
            let _ = write!(text, "{number}");
        }
    }
    if !told.nodes.is_empty() {
        next(text, "nodes");
        text.push('[');
        for (place, child) in told.nodes.iter().enumerate() {
            if place > 0 {
                text.push(',');
            }
            node(child, text);
        }
        text.push(']');
    }
    for (name, index) in [
        ("modifiedIndex", told.modified_index),
        ("createdIndex", told.created_index),
    ] {
        if index != 0 {
            next(text, name);
            let _ = write!(text, "{index}");
        }
    }
    text.push('}');
}

/// A moment as Go's RFC 3339 with nanoseconds: no trailing zeros.
fn time(nanos: i64) -> String {
    let since = Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
    let text = humantime::format_rfc3339_nanos(UNIX_EPOCH + since).to_string();
    let text = text.trim_end_matches('Z').trim_end_matches('0');
    format!("{}Z", text.trim_end_matches('.'))
}

/// A string of any bytes, with what Go escapes for the sake of HTML.
pub(super) fn string(bytes: &[u8], text: &mut String) {
    text.push('"');
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\u{1f}' => {
                    let _ = write!(text, "\\u{:04x}", u32::from(character));
                }
                _ => text.push(character),
            }
        }
        for _ in chunk.invalid() {
            text.push_str("\\ufffd");
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_read_as_in_go() {
        let child = V2Node {
            key: "/a/b".into(),
            has_value: true,
            value: b"<\"\n\xff\x01>"[..].into(),
            modified_index: 5,
            created_index: 4,
            expiration: 1_500_000_000_120_000_000,
            ttl: 3,
            ..V2Node::default()
        };
        let parent = V2Node {
            dir: true,
            nodes: vec![child],
            ..V2Node::default()
        };
        let mut told = V2Event {
            action: "get".to_owned(),
            node: Some(parent),
            ..V2Event::default()
        };
        assert_eq!(
            event(&told, true),
            "{\"action\":\"get\",\"node\":{\"dir\":true,\"nodes\":[{\"key\":\"/a/b\",\
             \"value\":\"\\u003c\\\"\\n\\ufffd\\u0001\\u003e\",\
             \"expiration\":\"2017-07-14T02:40:00.12Z\",\"ttl\":3,\
             \"modifiedIndex\":5,\"createdIndex\":4}]}}\n"
        );
        told.action = "set".to_owned();
        assert_eq!(event(&told, true), "{\"action\":\"set\"}\n");
        assert_eq!(time(1_000_000_000), "1970-01-01T00:00:01Z");
    }
}
