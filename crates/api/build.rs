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

fn main() -> Result<(), Box<dyn Error>> {
    let proto = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", proto.display());
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let public = protox::compile(PUBLIC, [&proto])?;
    fs::write(out.join("etcd_descriptor.bin"), public.encode_to_vec())?;

    let all = protox::compile(PUBLIC.iter().chain(&PRIVATE), [&proto])?;
    tonic_prost_build::configure()
        .bytes(".")
        // Holds the pairs in their stored encoding, so that a range is answered without decoding.
        .extern_path(".etcdserverpb.RangeResponse", "crate::wire::RangeResponse")
        // Holds events in an encoding that all their watchers share.
        .extern_path(".etcdserverpb.WatchResponse", "crate::wire::WatchResponse")
        .compile_fds(all)?;
    Ok(())
}
