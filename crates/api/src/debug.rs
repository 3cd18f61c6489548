//! `Debug` of the messages that hold what no log may show: values, passwords, hashes, tokens, and
//! bytes in which others of these lie. It gives their lengths instead.
//!
//! `build.rs` leaves `Debug` of these messages out; a test compares every field of
//! the protocol's descriptors with the two lists below.

use std::fmt;

use crate::pb::{authpb, etcdserverpb, kvdcommandpb, kvdpeerpb, mvccpb, v3electionpb};
use crate::wire;

/// Stands where a secret would, with its length.
struct Hidden(usize);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0)
    }
}

/// `Debug` with the fields before the semicolon as they are, those behind it as lengths.
macro_rules! hide {
    ($($message:ty { $($shown:ident),*; $($hidden:ident),+ })*) => {$(
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message).rsplit(':').next().unwrap_or_default())
                    $(.field(stringify!($shown), &self.$shown))*
                    $(.field(stringify!($hidden), &Hidden(self.$hidden.len())))+
                    .finish()
            }
        }
    )*};
}

hide! {
    mvccpb::KeyValue { key, create_revision, mod_revision, version, lease; value }
    authpb::User { name, roles, options; password }
    etcdserverpb::PutRequest { key, lease, prev_kv, ignore_value, ignore_lease; value }
    etcdserverpb::SnapshotResponse { header, remaining_bytes, version; blob }
    etcdserverpb::AuthenticateRequest { name; password }
    etcdserverpb::AuthenticateResponse { header; token }
    etcdserverpb::AuthUserAddRequest { name, options; password, hashed_password }
    etcdserverpb::AuthUserChangePasswordRequest { name; password, hashed_password }
    v3electionpb::CampaignRequest { name, lease; value }
    v3electionpb::ProclaimRequest { leader; value }
    kvdcommandpb::Authenticate { name, auth_revision; token_digest }
    kvdcommandpb::V2Request {
        method, path, dir, recursive, prev_index, prev_exist, refresh, now, ttl, lease;
        value, prev_value
    }
    kvdcommandpb::V2Node {
        key, dir, modified_index, created_index, expiration, ttl, nodes, has_value; value
    }
    kvdcommandpb::V2Error { code; cause }
    kvdpeerpb::ProposeRequest { ; commands }
}

impl fmt::Debug for etcdserverpb::Compare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compare")
            .field("result", &self.result)
            .field("target", &self.target)
            .field("key", &self.key)
            .field("range_end", &self.range_end)
            .field("target_union", &self.target_union)
            .finish()
    }
}

impl fmt::Debug for etcdserverpb::compare::TargetUnion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, value): (_, &dyn fmt::Debug) = match self {
            Self::Version(version) => ("Version", version),
            Self::CreateRevision(revision) => ("CreateRevision", revision),
            Self::ModRevision(revision) => ("ModRevision", revision),
            Self::Lease(lease) => ("Lease", lease),
            Self::Value(value) => ("Value", &Hidden(value.len())),
        };
        f.debug_tuple(name).field(value).finish()
    }
}

impl fmt::Debug for kvdpeerpb::Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("log_id", &self.log_id)
            .field("payload", &self.payload)
            .finish()
    }
}

impl fmt::Debug for kvdpeerpb::entry::Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commands(commands) => f
                .debug_tuple("Commands")
                .field(&Hidden(commands.len()))
                .finish(),
            Self::Membership(members) => f.debug_tuple("Membership").field(members).finish(),
        }
    }
}

impl fmt::Debug for kvdpeerpb::SnapshotPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotPart")
            .field("part", &self.part)
            .finish()
    }
}

impl fmt::Debug for kvdpeerpb::snapshot_part::Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(header) => f.debug_tuple("Header").field(header).finish(),
            Self::Chunk(chunk) => f.debug_tuple("Chunk").field(&Hidden(chunk.len())).finish(),
            Self::Crc(crc) => f.debug_tuple("Crc").field(crc).finish(),
        }
    }
}

/// The lengths of encoded messages.
struct Lengths<'a>(&'a [bytes::Bytes]);

impl fmt::Debug for Lengths<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lengths = self.0.iter().map(|bytes| Hidden(bytes.len()));
        f.debug_list().entries(lengths).finish()
    }
}

impl fmt::Debug for wire::RangeResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RangeResponse")
            .field("header", &self.header)
            .field("kvs", &Lengths(&self.kvs))
            .field("more", &self.more)
            .field("count", &self.count)
            .finish()
    }
}

impl fmt::Debug for wire::WatchResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchResponse")
            .field("header", &self.header)
            .field("watch_id", &self.watch_id)
            .field("created", &self.created)
            .field("canceled", &self.canceled)
            .field("compact_revision", &self.compact_revision)
            .field("cancel_reason", &self.cancel_reason)
            .field("fragment", &self.fragment)
            .field("events", &Lengths(&self.events))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::field_descriptor_proto::Type;
    use prost_types::{DescriptorProto, FileDescriptorSet};

    use super::*;

    const ALL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/all_descriptor.bin"));

    /// Fields of bytes that a log may show.
    const SHOWN: [&str; 5] = ["key", "keys", "range_end", "name", "path"];
    /// Texts that are secrets all the same.
    const SECRET_TEXTS: [&str; 3] = ["password", "hashedPassword", "token"];
    /// Fields whose messages have a `Debug` in this module.
    const HIDDEN: [&str; 21] = [
        "authpb.User.password",
        "etcdserverpb.AuthUserAddRequest.hashedPassword",
        "etcdserverpb.AuthUserAddRequest.password",
        "etcdserverpb.AuthUserChangePasswordRequest.hashedPassword",
        "etcdserverpb.AuthUserChangePasswordRequest.password",
        "etcdserverpb.AuthenticateRequest.password",
        "etcdserverpb.AuthenticateResponse.token",
        "etcdserverpb.Compare.value",
        "etcdserverpb.PutRequest.value",
        "etcdserverpb.SnapshotResponse.blob",
        "kvdcommandpb.Authenticate.token_digest",
        "kvdcommandpb.V2Error.cause",
        "kvdcommandpb.V2Node.value",
        "kvdcommandpb.V2Request.prev_value",
        "kvdcommandpb.V2Request.value",
        "kvdpeerpb.Entry.commands",
        "kvdpeerpb.ProposeRequest.commands",
        "kvdpeerpb.SnapshotPart.chunk",
        "mvccpb.KeyValue.value",
        "v3electionpb.CampaignRequest.value",
        "v3electionpb.ProclaimRequest.value",
    ];

    fn secrets(prefix: &str, message: &DescriptorProto, found: &mut BTreeSet<String>) {
        let name = format!("{prefix}.{}", message.name());
        for field in &message.field {
            let is_secret = match field.r#type() {
                Type::Bytes => !SHOWN.contains(&field.name()),
                Type::String => SECRET_TEXTS.contains(&field.name()),
                _ => false,
            };
            if is_secret {
                found.insert(format!("{name}.{}", field.name()));
            }
        }
        for nested in &message.nested_type {
            secrets(&name, nested, found);
        }
    }

    #[test]
    fn every_secret_of_the_protocol_is_hidden() {
        let files = FileDescriptorSet::decode(ALL).expect("descriptors");
        let mut found = BTreeSet::new();
        for file in &files.file {
            for message in &file.message_type {
                secrets(file.package(), message, &mut found);
            }
        }
        let hidden: BTreeSet<String> = HIDDEN.iter().map(ToString::to_string).collect();
        assert_eq!(
            found, hidden,
            "a new field of bytes is either shown or hidden"
        );
    }

    #[test]
    fn no_debug_text_has_a_secret_in_it() {
        const SECRET: &str = "Zs3cretZ";
        let bytes = || bytes::Bytes::from_static(SECRET.as_bytes());
        let text = || SECRET.to_owned();
        let pair = || mvccpb::KeyValue {
            value: bytes(),
            key: "the key".into(),
            ..Default::default()
        };
        let put = etcdserverpb::PutRequest {
            value: bytes(),
            key: "the key".into(),
            ..Default::default()
        };
        let op = etcdserverpb::RequestOp {
            request: Some(etcdserverpb::request_op::Request::RequestPut(put)),
        };
        let compare = etcdserverpb::Compare {
            target_union: Some(etcdserverpb::compare::TargetUnion::Value(bytes())),
            ..Default::default()
        };
        let txn = etcdserverpb::TxnRequest {
            compare: vec![compare],
            success: vec![op],
            failure: Vec::new(),
        };
        let node = kvdcommandpb::V2Node {
            value: bytes(),
            ..Default::default()
        };
        let parent = kvdcommandpb::V2Node {
            nodes: vec![node],
            ..Default::default()
        };
        let entry = kvdpeerpb::Entry {
            payload: Some(kvdpeerpb::entry::Payload::Commands(bytes())),
            ..Default::default()
        };
        let chunk = kvdpeerpb::snapshot_part::Part::Chunk(bytes());
        let texts = [
            format!(
                "{:?}",
                mvccpb::Event {
                    kv: Some(pair()),
                    prev_kv: Some(pair()),
                    r#type: 0
                }
            ),
            format!("{txn:?}"),
            format!(
                "{:?}",
                authpb::User {
                    password: bytes(),
                    ..Default::default()
                }
            ),
            format!(
                "{:?}",
                etcdserverpb::AuthenticateRequest {
                    password: text(),
                    name: "alice".into()
                }
            ),
            format!(
                "{:?}",
                etcdserverpb::AuthenticateResponse {
                    token: text(),
                    header: None
                }
            ),
            format!(
                "{:?}",
                etcdserverpb::AuthUserAddRequest {
                    password: text(),
                    hashed_password: text(),
                    ..Default::default()
                }
            ),
            format!(
                "{:?}",
                etcdserverpb::AuthUserChangePasswordRequest {
                    password: text(),
                    hashed_password: text(),
                    ..Default::default()
                }
            ),
            format!(
                "{:?}",
                etcdserverpb::SnapshotResponse {
                    blob: bytes(),
                    ..Default::default()
                }
            ),
            format!(
                "{:?}",
                v3electionpb::CampaignRequest {
                    value: bytes(),
                    ..Default::default()
                }
            ),
            format!(
                "{:?}",
                v3electionpb::ProclaimRequest {
                    value: bytes(),
                    ..Default::default()
                }
            ),
            format!("{parent:?}"),
            format!(
                "{:?}",
                kvdpeerpb::AppendRequest {
                    entries: vec![entry],
                    ..Default::default()
                }
            ),
            format!("{:?}", kvdpeerpb::SnapshotPart { part: Some(chunk) }),
            format!("{:?}", kvdpeerpb::ProposeRequest { commands: bytes() }),
            format!(
                "{:?}",
                wire::RangeResponse {
                    kvs: vec![bytes()],
                    ..Default::default()
                }
            ),
            format!(
                "{:?}",
                wire::WatchResponse {
                    events: vec![bytes()],
                    ..Default::default()
                }
            ),
        ];
        for text in &texts {
            assert!(!text.contains(SECRET), "{text}");
            assert!(text.contains("<8 bytes>"), "{text}");
        }
        assert!(
            texts[1].contains("PutRequest { key: b\"the key\""),
            "{}",
            texts[1]
        );
    }
}
