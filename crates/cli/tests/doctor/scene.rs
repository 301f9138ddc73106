//! A machine with a limit, and a load that is driven into it.

use crate::common::lab::free_port;
use crate::common::program::{BINARY, Finished, Scratch, finish};
use crate::common::{Config, Crowd, Program, eventually};
use serde_json::Value;
use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How far the load may be from the number that was said, in percent.
const NEAR_PERCENT: usize = 5;
/// Without a step forward for so long, nothing more will come.
const STANDSTILL: Duration = Duration::from_secs(4);

pub fn is_near(seen: usize, said: usize) -> bool {
    seen.abs_diff(said) * 100 <= said * NEAR_PERCENT
}

pub fn numbers(setting: &str) -> Vec<usize> {
    let text = fs::read_to_string(format!("/proc/sys/{setting}")).unwrap();
    text.split_whitespace().map(|word| word.parse().unwrap()).collect()
}

type Adapt<'a> = Box<dyn Fn(&mut Command) + 'a>;

pub struct Scene<'a> {
    config: &'a Config,
    flags: Vec<String>,
    fix_flags: Vec<String>,
    adapt: Adapt<'a>,
    settle: Box<dyn Fn() -> bool + 'a>,
    binary: PathBuf,
    _public: Option<Scratch>,
}

impl<'a> Scene<'a> {
    pub fn new(config: &'a Config) -> Self {
        Self {
            config,
            flags: Vec::new(),
            fix_flags: Vec::new(),
            adapt: Box::new(|_| {}),
            settle: Box::new(|| true),
            binary: BINARY.into(),
            _public: None,
        }
    }

    /// What doctor is told besides the configuration.
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        self
    }

    pub fn whole_machine(mut self) -> Self {
        self.fix_flags.push("--whole-machine".into());
        self
    }

    /// What doctor and proxy are started in.
    pub fn adapt(mut self, adapt: impl Fn(&mut Command) + 'a) -> Self {
        self.adapt = Box::new(adapt);
        self
    }

    /// When what an earlier run has left behind is gone.
    pub fn settle(mut self, settled: impl Fn() -> bool + 'a) -> Self {
        self.settle = Box::new(settled);
        self
    }

    /// The program where everybody may run it: a checkout may be in a home directory that others cannot read.
    pub fn public(mut self) -> Self {
        let path = std::env::temp_dir().join(format!("fourfold-doctor-{}", std::process::id()));
        fs::copy(BINARY, &path).unwrap();
        self.binary.clone_from(&path);
        self._public = Some(Scratch(path));
        self
    }

    pub fn doctor(&self, more: &[&str]) -> Finished {
        let address = free_port(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let text = self.config.toml(address);
        let folder =
            if self._public.is_some() { std::env::temp_dir() } else { env!("CARGO_TARGET_TMPDIR").into() };
        let file = Scratch(folder.join(format!("doctor-{}-{}.toml", std::process::id(), address.port())));
        fs::write(&file.0, text).unwrap();
        let mut command = Command::new(&self.binary);
        command.arg("doctor").arg(&file.0).args(&self.flags).args(more);
        (self.adapt)(&mut command);
        finish(command)
    }

    /// The number at which it says that `check` binds, which must be the first to bind.
    #[track_caller]
    pub fn predict(&self, check: &str) -> usize {
        eventually("what was before is gone", || (self.settle)().then_some(()));
        let said = self.doctor(&["--json"]);
        let report: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|_| panic!("{said:?}"));
        let first = &report["findings"][report["first_limit"].as_u64().unwrap() as usize];
        assert_eq!(
            (first["check"].as_str(), first["status"].as_str()),
            (Some(check), Some("fail")),
            "{first:#}"
        );
        assert_eq!(said.code(), Some(1), "{said:?}");
        first["limit"]["number"].as_u64().unwrap() as usize
    }

    pub fn start(&self) -> Program {
        Program::run_with(self.config, |command| (self.adapt)(command))
    }

    /// What it says instead.
    pub fn refuses_to_start(&self) -> String {
        let address = free_port(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let file = Scratch::new("refused.toml", self.config.toml(address).as_bytes());
        let mut command = Command::new(BINARY);
        command.arg("run").arg(&file.0);
        (self.adapt)(&mut command);
        let finished = finish(command);
        assert_eq!(finished.code(), Some(1), "{finished:?}");
        finished.stderr
    }

    /// Opens connections, a hundredth at a time, until no more get through or `most` are held.
    pub fn drive(&self, most: usize) -> usize {
        eventually("what was before is gone", || (self.settle)().then_some(()));
        let mut program = self.start();
        let mut crowds: Vec<Crowd> = Vec::new();
        let mut held = 0;
        while held < most {
            let mut crowd = Crowd::from(program.address, &format!("127.0.1.{}", crowds.len() % 200 + 1));
            let batch = (most / 100).max(1).min(most - held);
            crowd.open(batch);
            let come = progress(&mut program, &mut crowd, batch);
            held += come;
            crowds.push(crowd);
            if come < batch {
                break;
            }
        }
        for crowd in &mut crowds {
            let tally = crowd.tally();
            crowd.give_up();
            crowd.break_off(tally.held);
        }
        drop(crowds);
        // A program that is killed in the midst leaves tuples in TIME_WAIT.
        if !program.has_ended() {
            program.report_when_empty();
        }
        held
    }

    /// Clients send `bytes` each, through the proxy, to servers that do not read. How many have all of it waiting at their server, when
    /// no more comes or `most` have.
    pub fn fill(&self, most: usize, bytes: usize, port: u16) -> usize {
        let program = self.start();
        let mut clients = Vec::new();
        let body = vec![7u8; bytes];
        let mut filled = 0;
        while filled < most {
            for _ in 0..(most / 100).max(1) {
                let source = format!("127.0.1.{}:0", clients.len() % 200 + 1).parse().unwrap();
                let stream = crate::common::crowd::connect(program.address, Some(source)).unwrap();
                stream.set_nonblocking(false).unwrap();
                // A machine without memory for queues takes none of it: nobody shall wait here.
                stream.set_write_timeout(Some(STANDSTILL)).unwrap();
                let _ = (&stream).write_all(&body);
                clients.push(stream);
            }
            let began = Instant::now();
            while filled < clients.len() && began.elapsed() < STANDSTILL {
                std::thread::sleep(Duration::from_millis(10));
                filled = queues(port, bytes);
            }
            if filled < clients.len() {
                break;
            }
        }
        clients.iter().for_each(crate::common::origin::reset_on_close);
        drop(clients);
        drop(program);
        eventually("the queues are gone", || (queues(port, 1) == 0).then_some(()));
        filled
    }

    pub fn fix(&self) -> Scratch {
        self.fix_with(&[])
    }

    /// What undoes it.
    pub fn fix_with(&self, flags: &[&str]) -> Scratch {
        let undo = Scratch::new("undo.json", b"");
        let file = undo.0.to_str().unwrap();
        let mut all = vec!["--fix", "--undo-file", file];
        all.extend(self.fix_flags.iter().map(String::as_str));
        all.extend(flags);
        let said = self.doctor(&all);
        assert!(said.stdout.contains("undo with: "), "{said:?}");
        undo
    }

    pub fn undo(&self, file: &Scratch) {
        let said = undo_with(file);
        assert_eq!(said.code(), Some(0), "{said:?}");
        assert!(!file.0.exists(), "what is undone is not undone again");
    }
}

pub fn undo_with(file: &Scratch) -> Finished {
    let mut command = Command::new(BINARY);
    command.args(["doctor", "--undo"]).arg(&file.0);
    finish(command)
}

/// How many of a batch get through.
fn progress(program: &mut Program, crowd: &mut Crowd, batch: usize) -> usize {
    let (mut most, mut since) = (0, Instant::now());
    loop {
        crowd.pump(5);
        let tally = crowd.tally();
        if tally.held > most {
            (most, since) = (tally.held, Instant::now());
        }
        let decided = tally.undecided() == 0;
        if most == batch || decided || program.has_ended() || since.elapsed() > STANDSTILL {
            return most;
        }
    }
}

/// Sockets of `port` with at least so many bytes that nobody has read.
fn queues(port: u16, bytes: usize) -> usize {
    let text = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let waiting = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let ours = fields[1].ends_with(&format!(":{port:04X}"));
        let received =
            fields[4].split_once(':').map_or(0, |(_, n)| usize::from_str_radix(n, 16).unwrap_or(0));
        // A listener's field is its backlog.
        ours && fields[3] != "0A" && received >= bytes
    };
    text.lines().skip(1).filter(waiting).count()
}

pub fn files_open() -> usize {
    numbers("fs/file-nr")[0]
}

pub fn tcp_pages() -> usize {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Runs `work` when what others use of the machine's own limit is the same before and after: otherwise a number that was predicted says
/// nothing about what was held.
pub fn while_others_rest(what: &str, used: impl Fn() -> usize, tolerance: usize, work: impl Fn()) {
    const TRIES: usize = 6;
    for left in (0..TRIES).rev() {
        let before = used();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&work));
        let after = used();
        match result {
            Ok(()) => return,
            Err(failure) if left == 0 || before.abs_diff(after) <= tolerance => {
                std::panic::resume_unwind(failure)
            }
            Err(_) => eprintln!("{what} of other programs went from {before} to {after}: once more"),
        }
    }
}

/// A setting of the whole machine, put back at the end: also when this process is killed, by one that waits for it.
pub struct Kept {
    file: String,
    keeper: Child,
}

impl Kept {
    pub fn new(setting: &str) -> Self {
        let file = format!("/proc/sys/{setting}");
        let before = in_first_network(&file, None).trim().to_owned();
        // The script's namespace is that of the process: the one in which the setting is shown.
        let script = "trap '' INT TERM; cat > /dev/null; echo \"$1\" > \"$2\"";
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", std::process::id()));
        command.args(["sh", "-c", script, "sh", &before, &file]);
        let keeper = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        Self { file, keeper }
    }

    pub fn set(&self, value: &str) {
        in_first_network(&self.file, Some(value.to_owned()));
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// The main thread of this process has stayed in the machine's own network.
fn in_first_network(file: &str, write: Option<String>) -> String {
    let file = file.to_owned();
    let home = fs::File::open(format!("/proc/{}/ns/net", std::process::id())).unwrap();
    let work = move || {
        use std::os::fd::AsRawFd;
        // SAFETY: no pointers; it concerns this thread, which ends here.
        assert_eq!(unsafe { libc::setns(home.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
        if let Some(value) = write {
            fs::write(&file, value).unwrap_or_else(|error| panic!("{file}: {error}"));
        }
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"))
    };
    std::thread::spawn(work).join().unwrap()
}

/// A control group with a memory limit, version 1 or 2, whichever may be had.
pub struct Group {
    folder: PathBuf,
}

impl Group {
    /// `None`, after saying so, where none can be made.
    pub fn new(bytes: u64) -> Option<Self> {
        let name = format!("fourfold-test-{}", std::process::id());
        let kinds = [("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")];
        for (mount, limit) in kinds {
            let _ = fs::write(format!("{mount}/cgroup.subtree_control"), "+memory");
            let folder = PathBuf::from(mount).join(&name);
            if fs::create_dir(&folder).is_err() {
                continue;
            }
            let group = Self { folder };
            if fs::write(group.folder.join(limit), bytes.to_string()).is_ok() {
                // Without swap, so that the limit is one.
                let _ = fs::write(group.folder.join("memory.swap.max"), "0");
                return Some(group);
            }
        }
        eprintln!("not here: no control group with a memory limit can be made in /sys/fs/cgroup");
        None
    }

    /// The program begins in it.
    pub fn take(&self, command: &mut Command) {
        let file = std::ffi::CString::new(self.folder.join("cgroup.procs").to_str().unwrap()).unwrap();
        let join = move || {
            // SAFETY: open, write and close are async-signal-safe; the name outlives the call.
            let written = unsafe {
                let fd = libc::open(file.as_ptr(), libc::O_WRONLY);
                let written = libc::write(fd, c"0".as_ptr().cast(), 1);
                libc::close(fd);
                written
            };
            if written == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        // SAFETY: the function makes system calls that are allowed between fork and exec, and nothing else.
        unsafe { command.pre_exec(join) };
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let began = Instant::now();
        while fs::remove_dir(&self.folder).is_err() && began.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A folder below the target directory that is gone afterwards.
pub struct Folder(pub PathBuf);

pub fn folder(name: &str) -> Folder {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    Folder(path)
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub fn limit_descriptors(command: &mut Command, descriptors: u64) {
    // SAFETY: setrlimit is async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            let limit = libc::rlimit { rlim_cur: descriptors, rlim_max: descriptors };
            let result = libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        });
    }
}

/// Out of the set that a program run by root gets (capabilities(7), "Capabilities and execution of programs by root").
pub fn drop_sys_admin(command: &mut Command) {
    const CAP_SYS_ADMIN: libc::c_ulong = 21;
    // SAFETY: prctl is async-signal-safe and takes no pointers here.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_ADMIN, 0, 0, 0) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

pub fn become_nobody(command: &mut Command) {
    command.uid(65_534).gid(65_534);
}

/// Forgets every flow of this network namespace: the kernel itself does so for those that are over within a minute or so.
pub fn forget_flows() {
    #[repr(C)]
    struct Request {
        header: libc::nlmsghdr,
        /// `struct nfgenmsg`, all zero: every family.
        any: u32,
    }
    const NETLINK_NETFILTER: i32 = 12;
    /// NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE
    const DELETE: u16 = 1 << 8 | 2;
    let header = libc::nlmsghdr {
        nlmsg_len: size_of::<Request>() as u32,
        nlmsg_type: DELETE,
        nlmsg_flags: (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16,
        nlmsg_seq: 1,
        nlmsg_pid: 0,
    };
    let request = Request { header, any: 0 };
    let mut answer = [0u8; 64];
    // SAFETY: request and answer outlive the calls, and their lengths are given.
    unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, NETLINK_NETFILTER);
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        assert!(libc::send(fd, (&raw const request).cast(), size_of::<Request>(), 0) > 0);
        assert!(libc::recv(fd, answer.as_mut_ptr().cast(), answer.len(), 0) >= 20);
        libc::close(fd);
    }
    assert_eq!(answer[16..20], [0; 4], "flows cannot be forgotten: an error of netlink");
}
