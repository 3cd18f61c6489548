//! Runs `testscripts/*`: `UPDATE_GOLDENFILES=1 cargo test -p kvd-server` writes their outputs.

use std::error::Error;
use std::fmt::Write as _;

use goldenscript::{Argument, Command};
use kvd_api::pb::etcdserverpb::alarm_request::AlarmAction;
use kvd_api::pb::etcdserverpb::range_request::{SortOrder, SortTarget};
use kvd_api::pb::etcdserverpb::response_op::Response;
use kvd_api::pb::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, CompactionRequest, LeaseGrantRequest, PutRequest,
    RangeRequest, ResponseHeader, TxnResponse,
};
use kvd_api::pb::kvdcommandpb::command::Request;
use kvd_api::pb::kvdcommandpb::{PublishMember, SetClusterVersion};
use kvd_api::pb::mvccpb::KeyValue;
use kvd_api::wire::RangeResponse;
use kvd_mvcc::Table;
use kvd_raft::{Member, Payload};

use super::harness::Harness;
use super::requests;
use crate::apply::{self, Applied, cluster_version, is_read_only, members, read_only_txn};

type Outcome = Result<String, Box<dyn Error>>;

struct Runner {
    harness: Harness,
}

macro_rules! scripts {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            let mut runner = Runner { harness: Harness::new() };
            let path = concat!("src/apply/testscripts/", stringify!($name));
            goldenscript::run(&mut runner, path).expect("the script's output");
        }
    )*};
}

scripts! { put delete range range_sort txn txn_compare txn_check compact alarm cluster }

impl goldenscript::Runner for Runner {
    fn run(&mut self, command: &Command) -> Outcome {
        match command.name.as_str() {
            "put" => self.put(command),
            "delete" => {
                let mut request = requests::delete(first(command)?);
                request.prev_kv = command.tags.contains("prev");
                self.apply(Request::DeleteRange(request))
            }
            "get" => self.get(command),
            "txn" => {
                let request = requests::txn(first(command)?)?;
                if is_read_only(&request) {
                    let mut out = "read-only ".to_owned();
                    let response = read_only_txn(&self.harness.store, &request)?;
                    print_txn(&mut out, &response, 0)?;
                    return Ok(out);
                }
                self.apply(Request::Txn(request))
            }
            "compact" => {
                let revision = first(command)?.parse()?;
                self.apply(Request::Compaction(CompactionRequest {
                    revision,
                    physical: false,
                }))
            }
            "alarm" => self.alarm(command),
            "members" => self.members(command),
            "publish" => self.publish(command),
            "version" => {
                let version = first(command)?.to_owned();
                self.apply(Request::SetClusterVersion(SetClusterVersion { version }))
            }
            "lease" => {
                let id: i64 = first(command)?.parse()?;
                let grant = LeaseGrantRequest { id, ttl: 60 };
                self.harness.request(Request::LeaseGrant(grant))?;
                Ok(String::new())
            }
            other => Err(format!("unknown command {other}").into()),
        }
    }
}

impl Runner {
    fn apply(&mut self, request: Request) -> Outcome {
        let applied = self.harness.request(request)?;
        let mut out = String::new();
        match applied {
            Applied::Put(response) => {
                write!(out, "{} put", revision(response.header.as_ref()))?;
                if let Some(previous) = &response.prev_kv {
                    write!(out, ", was {}", show(previous))?;
                }
                writeln!(out)?;
            }
            Applied::DeleteRange(response) => {
                let revision = revision(response.header.as_ref());
                writeln!(out, "{revision} deleted {}", response.deleted)?;
                for previous in &response.prev_kvs {
                    writeln!(out, "  was {}", show(previous))?;
                }
            }
            Applied::Txn(response) => print_txn(&mut out, &response, 0)?,
            Applied::Compacted { revision } => {
                let compacted = self.harness.store.compacted_revision();
                writeln!(out, "rev={revision} compacted={compacted}")?;
            }
            Applied::Alarm(response) => print_alarms(&mut out, &response.alarms)?,
            other @ (Applied::LeaseGranted { .. }
            | Applied::LeaseRevoked
            | Applied::LeasesCheckpointed
            | Applied::AuthChanged
            | Applied::TokenAssigned { .. }) => writeln!(out, "{other:?}")?,
            Applied::Published | Applied::ClusterVersionSet | Applied::DowngradeSet => {
                self.print_cluster(&mut out)?
            }
            Applied::V2(reply) => writeln!(out, "{reply:?}")?,
        }
        Ok(out)
    }

    fn put(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let lease = args.lookup_parse("lease")?.unwrap_or(0);
        let pair = args.rest();
        let [Argument { key, value, .. }] = pair.as_slice() else {
            return Err("one pair".into());
        };
        let (key, value) = match key {
            Some(key) => (key.as_str(), value.as_str()),
            None => (value.as_str(), ""),
        };
        let has = |flag: &str| command.tags.contains(flag);
        self.apply(Request::Put(PutRequest {
            lease,
            prev_kv: has("prev"),
            ignore_value: has("ignore_value"),
            ignore_lease: has("ignore_lease"),
            ..requests::put(key, value)
        }))
    }

    fn get(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let keys = args.next_pos().ok_or("no key")?.value.clone();
        let mut number = |name: &str| args.lookup_parse(name).map(|number| number.unwrap_or(0));
        let request = RangeRequest {
            revision: number("rev")?,
            limit: number("limit")?,
            min_mod_revision: number("min_mod")?,
            max_mod_revision: number("max_mod")?,
            min_create_revision: number("min_create")?,
            max_create_revision: number("max_create")?,
            keys_only: command.tags.contains("keys_only"),
            count_only: command.tags.contains("count_only"),
            sort_order: match args.lookup("order") {
                None => 0,
                Some(order) => SortOrder::from_str_name(&order.value).ok_or("order")? as i32,
            },
            sort_target: match args.lookup("target") {
                None => 0,
                Some(target) => SortTarget::from_str_name(&target.value).ok_or("target")? as i32,
            },
            ..requests::get(&keys)
        };
        args.reject_rest()?;
        let mut out = String::new();
        print_range(&mut out, &apply::range(&self.harness.store, &request)?, 0)?;
        Ok(out)
    }

    fn alarm(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let action = args.next_pos().ok_or("no action")?.value.to_uppercase();
        let action = AlarmAction::from_str_name(&action).ok_or("unknown action")? as i32;
        let member_id = args.lookup_parse("member")?.unwrap_or(0);
        let alarm = match args.next_pos() {
            None => AlarmType::None,
            Some(kind) => AlarmType::from_str_name(&kind.value).ok_or("unknown kind")?,
        };
        let alarm = alarm as i32;
        self.apply(Request::Alarm(AlarmRequest {
            action,
            member_id,
            alarm,
        }))
    }

    /// `members ID=NAME... learner=ID`: what Raft says the members are.
    fn members(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let learner: u64 = args.lookup_parse("learner")?.unwrap_or(0);
        let mut wanted = Vec::new();
        for pair in args.rest_key() {
            let id = pair.key.as_deref().unwrap_or("").parse()?;
            let peer_urls = vec![format!("http://{id}:2380")];
            wanted.push(Member {
                id,
                name: pair.value.clone(),
                peer_urls,
                voter: id != learner,
            });
        }
        self.harness.entries(vec![Payload::Membership(wanted)])?;
        let mut out = String::new();
        self.print_cluster(&mut out)?;
        Ok(out)
    }

    fn publish(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let member = args.next_key().ok_or("no member")?;
        self.apply(Request::PublishMember(PublishMember {
            member_id: member.key.as_deref().unwrap_or("").parse()?,
            name: member.value.clone(),
            client_urls: args
                .rest_pos()
                .iter()
                .map(|url| url.value.clone())
                .collect(),
        }))
    }

    fn print_cluster(&self, out: &mut String) -> Result<(), Box<dyn Error>> {
        for member in members(&self.harness.store)? {
            let (peers, clients) = (member.peer_ur_ls.join(","), member.client_ur_ls.join(","));
            let role = if member.is_learner {
                "learner"
            } else {
                "voter"
            };
            writeln!(
                out,
                "{} {:?} {role} {peers} {clients}",
                member.id, member.name
            )?;
        }
        for (key, _) in self.harness.store.table_scan(Table::MembersRemoved) {
            writeln!(out, "{} removed", u64::from_be_bytes(key[..].try_into()?))?;
        }
        if let Some(version) = cluster_version(&self.harness.store) {
            writeln!(out, "cluster version {version}")?;
        }
        Ok(())
    }
}

fn first(command: &Command) -> Result<&str, Box<dyn Error>> {
    Ok(command
        .args
        .first()
        .map(|arg| arg.value.as_str())
        .ok_or("no argument")?)
}

fn print_txn(
    out: &mut String,
    response: &TxnResponse,
    depth: usize,
) -> Result<(), std::fmt::Error> {
    let pad = "  ".repeat(depth + 1);
    let branch = if response.succeeded {
        "success"
    } else {
        "failure"
    };
    writeln!(out, "{} txn {branch}", revision(response.header.as_ref()))?;
    for response in &response.responses {
        out.push_str(&pad);
        match response.response.as_ref() {
            Some(Response::ResponseRange(response)) => print_range(out, response, depth + 1)?,
            Some(Response::ResponsePut(response)) => {
                write!(out, "{} put", revision(response.header.as_ref()))?;
                if let Some(previous) = &response.prev_kv {
                    write!(out, ", was {}", show(previous))?;
                }
                writeln!(out)?;
            }
            Some(Response::ResponseDeleteRange(response)) => {
                let revision = revision(response.header.as_ref());
                writeln!(out, "{revision} deleted {}", response.deleted)?;
                for previous in &response.prev_kvs {
                    writeln!(out, "{pad}  was {}", show(previous))?;
                }
            }
            Some(Response::ResponseTxn(response)) => print_txn(out, response, depth + 1)?,
            None => writeln!(out, "nothing")?,
        }
    }
    Ok(())
}

fn print_range(
    out: &mut String,
    response: &RangeResponse,
    depth: usize,
) -> Result<(), std::fmt::Error> {
    let more = if response.more { " more" } else { "" };
    writeln!(
        out,
        "{} count={}{more}",
        revision(response.header.as_ref()),
        response.count
    )?;
    for kv in response.decode_kvs().expect("valid pairs") {
        writeln!(out, "{}{}", "  ".repeat(depth + 1), show(&kv))?;
    }
    Ok(())
}

fn print_alarms(out: &mut String, alarms: &[AlarmMember]) -> Result<(), std::fmt::Error> {
    for alarm in alarms {
        let kind = AlarmType::try_from(alarm.alarm).unwrap_or_default();
        writeln!(out, "member {} {}", alarm.member_id, kind.as_str_name())?;
    }
    if alarms.is_empty() {
        writeln!(out, "no alarms")?;
    }
    Ok(())
}

fn revision(header: Option<&ResponseHeader>) -> String {
    header.map_or("no header".to_owned(), |header| {
        format!("rev={}", header.revision)
    })
}

/// `key=value create..mod version`
fn show(kv: &KeyValue) -> String {
    let (key, value) = (
        String::from_utf8_lossy(&kv.key),
        String::from_utf8_lossy(&kv.value),
    );
    let lease = if kv.lease == 0 {
        String::new()
    } else {
        format!(" lease={}", kv.lease)
    };
    let (create, modified, version) = (kv.create_revision, kv.mod_revision, kv.version);
    format!("{key}={value} (create={create} mod={modified} version={version}{lease})")
}
