//! Sockets of other programs on our tuples, found by asking the kernel, so that the headroom shown is true and nothing is leased
//! in vain. What is missed is found when a connection fails with EADDRNOTAVAIL.

use fourfold_proxy::Shared;
use fourfold_sys::{clock::monotonic_ms, diag};
use std::sync::Arc;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(60);
/// A dump walks every socket of the machine: at most one part in this many of the time goes into it.
const DUTY: u32 = 200;

/// Looks now and then for as long as the program runs.
pub async fn follow(shared: Arc<Shared>) {
    loop {
        let look = Arc::clone(&shared);
        let Ok(took) = tokio::task::spawn_blocking(move || discover(&look)).await else { return };
        tokio::time::sleep(INTERVAL.max(took * DUTY)).await;
    }
}

/// Reports every connection to a server; the space knows which are its own.
fn discover(shared: &Shared) -> Duration {
    let started = Instant::now();
    for (address, space) in shared.spaces() {
        let mut found = 0u64;
        let result = diag::connections_to(&address, |local| {
            found += u64::from(space.mark_foreign(local.ip(), local.port(), monotonic_ms()));
        });
        match result {
            Ok(()) if found > 0 => {
                tracing::info!("tuples towards {address}: {found} are held by other sockets")
            }
            Ok(()) => {}
            Err(errno) => {
                tracing::info!("other programs' sockets are not counted as used tuples: sock_diag: {errno}");
                break;
            }
        }
    }
    started.elapsed()
}
