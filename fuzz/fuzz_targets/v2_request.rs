//! Requests of the v2 API, and its stored events.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvd_gateway::fuzzing::v2_request(data));
