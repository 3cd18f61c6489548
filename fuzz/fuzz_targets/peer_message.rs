//! Messages of the peer port.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvd_raft::fuzzing::peer_message(data));
