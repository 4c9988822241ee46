#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| switchyard_tests::fuzz::reports::check(data));
