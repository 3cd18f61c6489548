//! Compiles `proto/` with a pure-Rust compiler: no `protoc` is needed.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use prost::Message;

/// What clients may see by reflection and through the gateway.
const PUBLIC: [&str; 3] = ["rpc.proto", "lock.proto", "election.proto"];
/// What only members see.
const PRIVATE: [&str; 2] = ["peer.proto", "command.proto"];
/// Messages whose `Debug` is in `src/debug.rs`, since a derived one would show secrets. Without a dot
/// at the beginning: their nested types keep theirs.
const HIDDEN: [&str; 18] = [
    "authpb.User",
    "etcdserverpb.AuthUserAddRequest",
    "etcdserverpb.AuthUserChangePasswordRequest",
    "etcdserverpb.AuthenticateRequest",
    "etcdserverpb.AuthenticateResponse",
    "etcdserverpb.Compare",
    "etcdserverpb.PutRequest",
    "etcdserverpb.SnapshotResponse",
    "kvdcommandpb.Authenticate",
    "kvdcommandpb.V2Error",
    "kvdcommandpb.V2Node",
    "kvdcommandpb.V2Request",
    "kvdpeerpb.Entry",
    "kvdpeerpb.ProposeRequest",
    "kvdpeerpb.SnapshotPart",
    "mvccpb.KeyValue",
    "v3electionpb.CampaignRequest",
    "v3electionpb.ProclaimRequest",
];

fn main() -> Result<(), Box<dyn Error>> {
    let proto = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", proto.display());
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let public = protox::compile(PUBLIC, [&proto])?;
    fs::write(out.join("etcd_descriptor.bin"), public.encode_to_vec())?;

    let all = protox::compile(PUBLIC.iter().chain(&PRIVATE), [&proto])?;
    fs::write(out.join("all_descriptor.bin"), all.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".")
        .skip_debug(HIDDEN)
        // Holds the pairs in their stored encoding, so that a range is answered without decoding.
        .extern_path(".etcdserverpb.RangeResponse", "crate::wire::RangeResponse")
        // Holds events in an encoding that all their watchers share.
        .extern_path(".etcdserverpb.WatchResponse", "crate::wire::WatchResponse")
        .compile_fds(all)?;
    Ok(())
}
