//! What must hold for any bytes: bodies of fuzz targets.

use crate::proxy_protocol::{Addresses, Malformed, Parsed, V2_BYTES_MAX, parse, write_v1, write_v2};

/// Panics when an invariant is broken: a verdict does not depend on how the bytes were cut up, comes in bounded bytes, uses no
/// more than there are, and addresses survive being written and parsed again.
pub fn check_proxy_protocol(bytes: &[u8]) {
    let whole = parse(bytes);
    for end in 0..bytes.len() {
        let Some(part) = bytes.get(..end) else { continue };
        let verdict = parse(part);
        assert!(
            verdict == Ok(Parsed::More) || verdict == whole,
            "{end} bytes say {verdict:?}, all say {whole:?}"
        );
    }
    match whole {
        Ok(Parsed::More) => assert!(bytes.len() < V2_BYTES_MAX, "waits for more after {} bytes", bytes.len()),
        Ok(Parsed::Header { used, addresses }) => check_header(bytes.len(), used, addresses),
        Ok(Parsed::None) => {}
        Err(malformed) => assert!(Malformed::ALL.contains(&malformed)),
    }
}

fn check_header(len: usize, used: usize, addresses: Option<Addresses>) {
    assert!(used <= len && used <= V2_BYTES_MAX, "{used} of {len} bytes used");
    for write in [write_v1, write_v2] {
        let mut written = Vec::new();
        write(addresses, &mut written);
        assert_eq!(parse(&written), Ok(Parsed::Header { used: written.len(), addresses }));
    }
}
