//! Protobuf messages of the API.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvd_gateway::fuzzing::protobuf_body(data));
