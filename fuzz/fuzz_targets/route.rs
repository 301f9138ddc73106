//! See `fourfold_http::check::route` for what must hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fourfold_http::check::route(bytes));
