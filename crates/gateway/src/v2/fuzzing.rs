//! Requests of the v2 API as a stranger might write them, and nodes of the tree as they may be
//! stored. See [`crate::fuzzing`].

use http::Method;
use kvd_api::pb::kvdcommandpb::V2Event;
use prost::Message;

use super::form::{self, Form};
use super::{json, request};

const METHODS: [Method; 5] = [
    Method::GET,
    Method::HEAD,
    Method::PUT,
    Method::POST,
    Method::DELETE,
];

/// `PATH?QUERY`, a newline and a form, read as `/v2/keys` reads them; or a stored event, written as
/// JSON. The first byte chooses.
pub(crate) fn v2_request(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    let Some(method) = METHODS.get(usize::from(*kind) % (METHODS.len() + 1)) else {
        return v2_event(data);
    };
    let mut halves = data.splitn(2, |byte| *byte == b'\n');
    let line = halves.next().unwrap_or_default();
    let body = halves.next().unwrap_or_default();
    let mut parts = line.splitn(2, |byte| *byte == b'?');
    let path = parts.next().unwrap_or_default();
    let query = parts.next().unwrap_or_default();
    let mut form = Form::default();
    if form.parse(body).is_err() || form.parse(query).is_err() {
        return;
    }
    if let Ok(path) = form::unescape(path, false) {
        // What is wrong with a request is told by an error.
        let _asked = request::parse(method, path.into(), &form);
    }
}

fn v2_event(data: &[u8]) {
    let Ok(event) = V2Event::decode(data) else {
        return;
    };
    for no_value in [true, false] {
        let written = json::event(&event, no_value);
        let read: Result<serde_json::Value, _> = serde_json::from_str(&written);
        // Trees are as deep as a path has elements; serde_json reads 128 levels.
        if data.len() < 128 {
            read.expect("what is written is JSON");
        }
    }
}
