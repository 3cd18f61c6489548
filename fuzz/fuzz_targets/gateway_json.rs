//! JSON bodies of the gateway.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| kvd_gateway::fuzzing::json_body(data));
