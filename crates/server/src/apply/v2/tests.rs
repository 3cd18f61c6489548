//! Runs `testscripts/*`: `UPDATE_GOLDENFILES=1 cargo test -p kvd-server` writes their outputs.
//!
//! `PUT`, `POST`, `DELETE` and `GET` take a path and etcd's parameters, and `lease=ID` with a TTL;
//! `now=SECONDS` sets the proposers' clock. `expire` ends a lease, `ring` shows the last events,
//! `leases` those there are, `v3` what the v3 API sees of everything.

use std::error::Error;
use std::fmt::Write as _;

use bytes::Bytes;
use goldenscript::Command;
use kvd_api::pb::etcdserverpb::{DeleteRangeRequest, LeaseRevokeRequest, PutRequest, RangeRequest};
use kvd_api::pb::kvdcommandpb::command::Request;
use kvd_api::pb::kvdcommandpb::v2_reply::Outcome;
use kvd_api::pb::kvdcommandpb::v2_request::Method;
use kvd_api::pb::kvdcommandpb::{LeaseExpire, V2Event, V2Node, V2Reply, V2Request};
use kvd_api::pb::mvccpb::KeyValue;
use kvd_mvcc::RangeOptions;
use prost::Message;

use super::{History, Refusal, clean, decode_event, get, hide, history};
use crate::apply::tests::harness::Harness;
use crate::apply::{Applied, range};

const SECOND: i64 = 1_000_000_000;

struct Runner {
    harness: Harness,
    /// The proposers' clock, in seconds.
    now: i64,
}

macro_rules! scripts {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            let mut runner = Runner { harness: Harness::new(), now: 1_000 };
            let path = concat!("src/apply/v2/testscripts/", stringify!($name));
            goldenscript::run(&mut runner, path).expect("the script's output");
        }
    )*};
}

scripts! { set create update compare delete ttl tree v3 }

impl goldenscript::Runner for Runner {
    fn run(&mut self, command: &Command) -> Result<String, Box<dyn Error>> {
        let method = match command.name.as_str() {
            "PUT" => Method::Put,
            "POST" => Method::Post,
            "DELETE" => Method::Delete,
            "GET" => return self.get(command),
            "now" => {
                self.now = command.args[0].value.parse()?;
                return Ok(String::new());
            }
            "expire" => {
                let id = command.args[0].value.parse()?;
                self.harness
                    .request(Request::LeaseExpire(LeaseExpire { id, term: 1 }))?;
                return Ok(String::new());
            }
            "revoke" => {
                let id = command.args[0].value.parse()?;
                self.harness
                    .request(Request::LeaseRevoke(LeaseRevokeRequest { id }))?;
                return Ok(String::new());
            }
            "ring" => return self.ring(),
            "leases" => return Ok(self.leases()),
            "v3" => return self.v3(command),
            other => return Err(format!("unknown command {other}").into()),
        };
        let mut args = command.consume_args();
        let path = args.next_pos().ok_or("no path")?.value.clone();
        let text = |args: &mut goldenscript::ArgumentConsumer<'_>, name: &str| {
            let value = args.lookup(name);
            value.map_or_else(Bytes::new, |value| value.value.clone().into())
        };
        let request = V2Request {
            method: method as i32,
            path: path.into(),
            value: text(&mut args, "value"),
            prev_value: text(&mut args, "prevValue"),
            prev_index: args.lookup_parse("prevIndex")?.unwrap_or(0),
            prev_exist: args.lookup_parse("prevExist")?,
            dir: args.lookup_parse("dir")?.unwrap_or(false),
            recursive: args.lookup_parse("recursive")?.unwrap_or(false),
            refresh: args.lookup_parse("refresh")?.unwrap_or(false),
            ttl: args.lookup_parse("ttl")?,
            lease: args.lookup_parse("lease")?.unwrap_or(0),
            now: self.now * SECOND,
        };
        args.reject_rest()?;
        match self.harness.request(Request::V2(request))? {
            Applied::V2(reply) => Ok(show(&reply)),
            other => Err(format!("{other:?}").into()),
        }
    }
}

impl Runner {
    fn get(&self, command: &Command) -> Result<String, Box<dyn Error>> {
        let mut args = command.consume_args();
        let path = args.next_pos().ok_or("no path")?.value.clone();
        let recursive = args.lookup_parse("recursive")?.unwrap_or(false);
        args.reject_rest()?;
        let path = clean(path.as_bytes());
        let store = &self.harness.store;
        let outcome = match get(store, &path, recursive, self.now * SECOND) {
            Ok(event) => Outcome::Event(event),
            Err(Refusal::Refused(error)) => Outcome::Error(error),
            Err(Refusal::Store(error)) => return Err(error.into()),
        };
        Ok(show(&V2Reply {
            outcome: Some(outcome),
            index: u64::try_from(store.current_revision())?,
        }))
    }

    fn ring(&self) -> Result<String, Box<dyn Error>> {
        let store = &self.harness.store;
        let History::Kept(events) = history(store, store.current_revision(), 1)? else {
            return Ok("cleared\n".to_owned());
        };
        let mut out = String::new();
        for (index, key) in events {
            let found = store.range(&key, &[], &RangeOptions::default())?;
            let event = decode_event(&KeyValue::decode(found.kvs[0].clone())?)?;
            writeln!(out, "{index}: {}", show_event(&event, 0))?;
        }
        Ok(out)
    }

    fn leases(&self) -> String {
        let leases = self
            .harness
            .store
            .table_scan(kvd_mvcc::Table::Lease)
            .into_iter();
        let mut out = String::new();
        for (key, _) in leases {
            let id = i64::from_be_bytes(key[..].try_into().expect("eight bytes"));
            let keys = self.harness.leases.keys(id).expect("it is known");
            let keys: Vec<_> = keys
                .iter()
                .map(|key| key.escape_ascii().to_string())
                .collect();
            writeln!(out, "{id}: {}", keys.join(" ")).expect("a string");
        }
        assert!(self.harness.leases.ids().is_empty(), "v3 sees no leases");
        out
    }

    /// `v3 all`, `v3 put KEY`, `v3 delete-all`.
    fn v3(&mut self, command: &Command) -> Result<String, Box<dyn Error>> {
        let mut out = String::new();
        match command.args[0].value.as_str() {
            "all" => {
                let key = Bytes::from_static(b"\0");
                let mut range_end = key.clone();
                hide(&key, &mut range_end);
                let request = RangeRequest {
                    key,
                    range_end,
                    ..RangeRequest::default()
                };
                let found = range(&self.harness.store, &request)?;
                for kv in found.decode_kvs()? {
                    writeln!(out, "{}", kv.key.escape_ascii())?;
                }
                writeln!(out, "count={}", found.count)?;
            }
            "put" => {
                let key = command.args[1].value.clone().into();
                self.harness.request(Request::Put(PutRequest {
                    key,
                    ..PutRequest::default()
                }))?;
            }
            "delete-all" => {
                let request = DeleteRangeRequest {
                    key: Bytes::from_static(b"\0"),
                    range_end: Bytes::from_static(b"\0"),
                    prev_kv: false,
                };
                match self.harness.request(Request::DeleteRange(request))? {
                    Applied::DeleteRange(response) => writeln!(out, "{}", response.deleted)?,
                    other => writeln!(out, "{other:?}")?,
                }
            }
            other => return Err(format!("unknown command {other}").into()),
        }
        Ok(out)
    }
}

fn show(reply: &V2Reply) -> String {
    match &reply.outcome {
        Some(Outcome::Event(event)) => format!("[{}] {}\n", reply.index, show_event(event, 0)),
        Some(Outcome::Error(error)) => {
            let cause = String::from_utf8_lossy(&error.cause);
            format!("[{}] error {} ({cause})\n", reply.index, error.code)
        }
        None => "nothing\n".to_owned(),
    }
}

fn show_event(event: &V2Event, depth: usize) -> String {
    let mut out = event.action.clone();
    if let Some(node) = &event.node {
        out.push(' ');
        show_node(node, depth, &mut out);
    }
    if let Some(node) = &event.prev_node {
        out.push_str(" was ");
        show_node(node, depth, &mut out);
    }
    if event.refresh {
        out.push_str(" (refresh)");
    }
    out
}

/// `/a="value" MODIFIED/CREATED until SECOND (TTL)`, a directory with a slash.
fn show_node(node: &V2Node, depth: usize, out: &mut String) {
    out.push_str(&String::from_utf8_lossy(&node.key));
    if node.dir {
        out.push('/');
    }
    if node.has_value {
        out.push_str(&format!("={:?}", String::from_utf8_lossy(&node.value)));
    }
    out.push_str(&format!(" {}/{}", node.modified_index, node.created_index));
    if node.expiration != 0 {
        out.push_str(&format!(
            " until {} ({})",
            node.expiration / SECOND,
            node.ttl
        ));
    }
    for child in &node.nodes {
        out.push('\n');
        out.push_str(&"  ".repeat(depth + 1));
        show_node(child, depth + 1, out);
    }
}

#[test]
fn the_ring_keeps_the_last_thousand_events() {
    let mut harness = Harness::new();
    let put = |harness: &mut Harness| {
        let request = V2Request {
            path: "/a".into(),
            ..V2Request::default()
        };
        harness.request(Request::V2(request)).expect("it is set");
    };
    for _ in 0..1_000 {
        put(&mut harness);
    }
    let kept = |harness: &Harness, since| match history(
        &harness.store,
        harness.store.current_revision(),
        since,
    )
    .unwrap()
    {
        History::Kept(events) => Ok((events.first().map(|(at, _)| *at), events.len())),
        History::Cleared(oldest) => Err(oldest),
    };
    // A ring that is just full has lost nothing, but cannot know that it has not.
    assert_eq!(kept(&harness, 2), Ok((Some(2), 1_000)));
    put(&mut harness);
    assert_eq!(kept(&harness, 2), Err(3));
    assert_eq!(kept(&harness, 3), Ok((Some(3), 1_000)));
    assert_eq!(kept(&harness, 1_002), Ok((Some(1_002), 1)));
    // v3's compaction does not touch what is alive.
    let request = kvd_api::pb::etcdserverpb::CompactionRequest {
        revision: harness.store.current_revision(),
        physical: false,
    };
    harness.request(Request::Compaction(request)).unwrap();
    harness
        .store
        .wait_compacted(harness.store.compacted_revision());
    assert_eq!(kept(&harness, 3), Ok((Some(3), 1_000)));
}
