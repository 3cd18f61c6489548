//! Records of the write-ahead log.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvd_raft::fuzzing::wal_records(data));
