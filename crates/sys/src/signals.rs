//! Which threads take signals.

/// Keeps every signal away from the calling thread except those that its own faults raise.
///
/// The kernel gives a signal to any thread that does not block it, and a handler that writes into a descriptor by its number
/// (as tokio's and signal-hook's do) must not run in a thread whose table says something else under that number.
pub fn block_in_this_thread() {
    // SAFETY: sigset_t is plain data that sigfillset fills in, and it outlives the calls. The only error of
    // pthread_sigmask(3) is an unknown first argument.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGABRT, libc::SIGTRAP] {
            libc::sigdelset(&raw mut set, fault);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}
