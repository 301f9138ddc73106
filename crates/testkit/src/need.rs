//! What a test needs beyond the program itself, and skipping with a reason where it is missing.

use std::path::{Path, PathBuf};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Root,
    /// A program in `PATH` or in one of the sbin folders.
    Program(&'static str),
    /// A file that must exist, such as a module of nginx.
    File(&'static str),
    /// `io_uring_setup` is permitted here; containers often forbid it.
    IoUring,
    /// Network namespaces can be made (root, and `ip`).
    Namespaces,
}

impl Need {
    fn missing(self) -> Option<String> {
        match self {
            Need::Root => (!is_root()).then(|| "needs root".into()),
            Need::Program(name) => find_program(name).is_none().then(|| format!("needs the program {name}")),
            Need::File(path) => (!Path::new(path).exists()).then(|| format!("needs {path}")),
            Need::IoUring => (!io_uring_works()).then(|| "needs io_uring".into()),
            Need::Namespaces => Need::Root.missing().or_else(|| Need::Program("ip").missing()),
        }
    }
}

/// Whether the test must be skipped; prints why. With `FOURFOLD_NO_SKIP=1` a missing need is a failure, so that CI cannot be
/// green by skipping.
///
/// ```no_run
/// # use fourfold_testkit::{skip, Need};
/// if skip(&[Need::Root, Need::Program("nft")]) {
///     return;
/// }
/// ```
pub fn skip(needs: &[Need]) -> bool {
    let reasons: Vec<String> = needs.iter().filter_map(|need| need.missing()).collect();
    if reasons.is_empty() {
        return false;
    }
    let test = std::thread::current().name().unwrap_or("test").to_string();
    let reasons = reasons.join(", ");
    assert!(std::env::var_os("FOURFOLD_NO_SKIP").is_none(), "{test} may not be skipped, but {reasons}");
    eprintln!("SKIPPED {test}: {reasons}");
    true
}

pub fn is_root() -> bool {
    // SAFETY: geteuid has no obligations and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn io_uring_works() -> bool {
    // The parameter block is 120 bytes of integers and may be zero; larger than needed does not matter.
    let mut parameters = [0u64; 32];
    // SAFETY: the kernel writes at most a `struct io_uring_params` (120 bytes) into the 256 that we give it.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
    if fd < 0 {
        return false;
    }
    // SAFETY: the descriptor was just given to us and nobody else knows it.
    unsafe { libc::close(fd as libc::c_int) };
    true
}

/// The program under test: `FOURFOLD_BIN`, else what cargo built for the test (`env!("CARGO_BIN_EXE_fourfold")`).
pub fn fourfold_bin(built_for_the_test: &str) -> PathBuf {
    std::env::var_os("FOURFOLD_BIN").map_or_else(|| PathBuf::from(built_for_the_test), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named() {
        assert_eq!(Need::Program("sh").missing(), None);
        assert!(
            Need::Program("no-such-program")
                .missing()
                .is_some_and(|reason| reason.contains("no-such-program"))
        );
    }
}
