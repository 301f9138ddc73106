//! Tasks of the project, run as `cargo xtask <task>`.
//!
//! Owns what a contributor and the CI run: the test command, the checks of the tree's shape, the benchmarks.
//! Refuses to be clever: every task prints what it does, stops at the first failure, and leaves nothing running.

#![forbid(unsafe_code)]

mod bench;
mod envoy;
mod fuzz;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask test  [--no-install] [--quick]   everything CI runs; installs what the tests need when it may
cargo xtask tidy                             arrows between crates, unsafe, clocks in ring 0, sizes
cargo xtask bench tcp [--rounds N] [--seconds S] [--quick] [--peers A,B,…] [--scenarios A,B,…] [--fourfold PATH]
                                             peers against Fourfold on this machine
                      peers: nginx haproxy envoy fourfold-uring fourfold-epoll fourfold-uring-splice fourfold-epoll-splice
                      scenarios: small new bulk-1 bulk-64 hold
cargo xtask bench http [the same flags] [--clients N]
                                             the same for HTTP and WebSocket; N bounds what idle and reuse scenarios hold
                      scenarios: small 10k new ws latency idle ws-idle reuse
cargo xtask bpf                              the programs for the kernel under bpf/ anew, from their sources
cargo xtask fuzz [--seconds N] [TARGET…]     the fuzz targets, ten minutes each unless told otherwise
cargo xtask compare-http                     nginx, HAProxy and Envoy beside Fourfold over tests/http, written down under docs/design
cargo xtask bench report                     docs/benchmarks.md from the newest files under benches/results
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["test", flags @ ..] => test::run(flags),
        ["tidy"] => tidy::run(),
        ["bpf"] => test::build_bpf(),
        ["fuzz", words @ ..] => fuzz::run(words),
        ["compare-http"] => test::compare_http(),
        ["bench", rest @ ..] => bench::run(rest),
        [] | ["help" | "-h" | "--help", ..] => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("unknown task: {}\n\n{HELP}", words.join(" "));
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
