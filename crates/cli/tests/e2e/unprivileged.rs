//! In a container without privileges and without io_uring: it works, and says what is lost.

use crate::common::program::{BINARY, Scratch};
use crate::common::{Config, Crowd, Engine, Lab, Origin, Program};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

const NOBODY: u32 = 65_534;

/// A seccomp filter under which io_uring_setup(2) fails with EPERM, as in most containers.
fn forbid_io_uring() -> io::Result<()> {
    const LOAD_NUMBER: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        step(LOAD_NUMBER, 0, 0, 0),
        step(JUMP_IF_EQUAL, 0, 1, libc::SYS_io_uring_setup as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: both are async-signal-safe; the filter outlives the call, which copies it.
    let result = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            | libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// No capability here, and those of a namespace of its own do not reach the network.
fn into_user_namespace() -> io::Result<()> {
    // SAFETY: no pointers. Where user namespaces are forbidden the process is unprivileged all the same.
    unsafe { libc::unshare(libc::CLONE_NEWUSER) };
    Ok(())
}

fn restrict(command: &mut Command, io_uring: bool) {
    // SAFETY: getuid has no preconditions.
    if unsafe { libc::getuid() } == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    // SAFETY: the functions make system calls that are allowed between fork and exec, and nothing else.
    unsafe {
        command.pre_exec(into_user_namespace);
        if !io_uring {
            command.pre_exec(forbid_io_uring);
        }
    }
}

/// The binary and its configuration where anybody may read them; a checkout may be in a home directory that others cannot.
struct Public {
    binary: Scratch,
    config: Scratch,
}

fn public(config: &Config, bind: std::net::SocketAddr) -> Public {
    let folder = std::env::temp_dir();
    let place = |name: &str| Scratch(folder.join(format!("fourfold-e2e-{}-{name}", std::process::id())));
    let public = Public { binary: place("program"), config: place("config.toml") };
    std::fs::copy(BINARY, &public.binary.0).unwrap();
    std::fs::write(&public.config.0, config.toml(bind)).unwrap();
    let everybody = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&public.binary.0, everybody.clone()).unwrap();
    std::fs::set_permissions(&public.config.0, everybody).unwrap();
    public
}

fn start(engine: &str, pool: &str, io_uring: bool, origin: &Origin) -> (Program, Public) {
    let address = crate::common::lab::free_port("127.0.0.1".parse().unwrap());
    let config = Config::to(Engine::Epoll, &[origin.address]).pool(pool);
    let public = public(&config, address);
    let text = std::fs::read_to_string(&public.config.0).unwrap();
    std::fs::write(&public.config.0, text.replace("\"epoll\"", &format!("\"{engine}\""))).unwrap();
    let mut command = Command::new(&public.binary.0);
    command.args(["run", "--log-format", "json"]).arg(&public.config.0);
    restrict(&mut command, io_uring);
    (Program::spawn(command, address), public)
}

#[test]
fn works_on_epoll_and_says_what_is_lost() {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let pool = "sources = [\"127.0.0.2-127.0.0.3\"]";
    let (mut program, _public) = start("auto", pool, false, &origin);
    assert!(program.becomes_ready(), "{}", program.log());
    let said: Vec<String> =
        program.messages().into_iter().filter(|message| message.starts_with("engine ")).collect();
    assert_eq!(said.len(), 1, "one line: {said:?}");
    assert!(said[0].starts_with("engine epoll: io_uring is not available"), "{said:?}");
    let mut crowd = Crowd::from(program.address, "127.0.0.9");
    crowd.open(2_000);
    crowd.until("all are served", |tally| tally.held == 2_000);
    crowd.leave(1_000);
    crowd.break_off(1_000);
    program.report_when_empty();
    program.stop();
}

#[test]
fn asked_for_io_uring_it_does_not_start_and_says_what_to_write() {
    let _lab = Lab::new();
    let origin = Origin::echo();
    let (mut program, _public) = start("uring", "", false, &origin);
    assert!(!program.becomes_ready());
    assert!(program.log().contains("engine = \\\"epoll\\\""), "{}", program.log());
    assert_eq!(program.wait().status.code(), Some(1));
}

#[test]
fn io_uring_needs_no_privilege() {
    if !Engine::Uring.works_here() || sysctl_restricts() {
        return;
    }
    let _lab = Lab::new();
    let origin = Origin::echo();
    let (mut program, _public) = start("uring", "sources = [\"127.0.0.2\"]", true, &origin);
    assert!(program.becomes_ready(), "{}", program.log());
    let mut crowd = Crowd::from(program.address, "127.0.0.9");
    crowd.open(2_000);
    crowd.until("all are served", |tally| tally.held == 2_000);
    drop(crowd);
    program.report_when_empty();
    program.stop();
}

/// kernel.io_uring_disabled: 1 keeps it to the privileged.
fn sysctl_restricts() -> bool {
    let restricted =
        std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").is_ok_and(|value| value.trim() != "0");
    if restricted {
        eprintln!("skipped: kernel.io_uring_disabled is set");
    }
    restricted
}
