//! A program under test: started in a process group of its own, its output read, its end assured.

use anyhow::{Context, Result, anyhow, bail};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lines kept per program; older ones go first. A program that logs in a loop must not take the test's memory.
const LINES_KEPT_MAX: usize = 20_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Term,
    Int,
    Kill,
    Stop,
    Cont,
    Usr1,
    Hup,
}

impl Signal {
    fn number(self) -> libc::c_int {
        match self {
            Signal::Term => libc::SIGTERM,
            Signal::Int => libc::SIGINT,
            Signal::Kill => libc::SIGKILL,
            Signal::Stop => libc::SIGSTOP,
            Signal::Cont => libc::SIGCONT,
            Signal::Usr1 => libc::SIGUSR1,
            Signal::Hup => libc::SIGHUP,
        }
    }
}

#[derive(Default)]
struct Seen {
    lines: VecDeque<String>,
    /// Lines that were dropped from the front.
    dropped: usize,
    open_pipes: usize,
}

#[derive(Default)]
struct Output {
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, line: String) {
        let mut seen = self.lock();
        if seen.lines.len() == LINES_KEPT_MAX {
            seen.lines.pop_front();
            seen.dropped += 1;
        }
        seen.lines.push_back(line);
        self.changed.notify_all();
    }

    fn closed(&self) {
        self.lock().open_pipes -= 1;
        self.changed.notify_all();
    }
}

/// A running program. Dropped: its whole process group is killed and it is reaped.
pub struct Proc {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    output: Arc<Output>,
}

impl Proc {
    /// Starts `command` in a process group of its own, with nothing on stdin unless the caller asked for a pipe with
    /// [`Proc::spawn_with_stdin`]. Lines of stdout and stderr are kept together in the order in which they were read.
    pub fn spawn(command: &mut Command) -> Result<Proc> {
        Proc::start(command.stdin(Stdio::null()))
    }

    /// As [`Proc::spawn`], with a pipe to write into: [`Proc::stdin`].
    pub fn spawn_with_stdin(command: &mut Command) -> Result<Proc> {
        Proc::start(command.stdin(Stdio::piped()))
    }

    fn start(command: &mut Command) -> Result<Proc> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let output = Arc::new(Output::default());
        output.lock().open_pipes = 2;
        if let Some(pipe) = child.stdout.take() {
            read_lines(pipe, &output);
        }
        if let Some(pipe) = child.stderr.take() {
            read_lines(pipe, &output);
        }
        Ok(Proc { name, child, status: None, output })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdin(&mut self) -> Option<&mut std::process::ChildStdin> {
        self.child.stdin.as_mut()
    }

    /// Ends the program's input.
    pub fn close_stdin(&mut self) {
        self.child.stdin = None;
    }

    /// Every line so far.
    pub fn lines(&self) -> Vec<String> {
        self.output.lock().lines.iter().cloned().collect()
    }

    /// How many lines there were so far: pass it to [`Proc::wait_for_after`] to look only at what comes next.
    pub fn mark(&self) -> usize {
        let seen = self.output.lock();
        seen.dropped + seen.lines.len()
    }

    /// The first line, of all so far and to come, that contains `needle`.
    pub fn wait_for_line(&self, needle: &str, deadline: Duration) -> Result<String> {
        self.wait_for(&format!("a line with {needle:?}"), deadline, |line| {
            line.contains(needle).then(|| line.to_string())
        })
    }

    /// What `pick` makes of the first line that it accepts.
    pub fn wait_for<T>(
        &self,
        what: &str,
        deadline: Duration,
        pick: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        self.wait_for_after(0, what, deadline, pick)
    }

    /// As [`Proc::wait_for`], leaving out what came before `mark`. Fails at once when the program has closed its output.
    pub fn wait_for_after<T>(
        &self,
        mark: usize,
        what: &str,
        deadline: Duration,
        mut pick: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let end = Instant::now() + deadline;
        let mut next = mark;
        let mut seen = self.output.lock();
        loop {
            let skip = next.saturating_sub(seen.dropped);
            if let Some(found) = seen.lines.iter().skip(skip).find_map(|line| pick(line)) {
                return Ok(found);
            }
            next = seen.dropped + seen.lines.len();
            let left = end.saturating_duration_since(Instant::now());
            if seen.open_pipes == 0 || left.is_zero() {
                let why = if left.is_zero() {
                    format!("not within {deadline:?}")
                } else {
                    "its output ended".into()
                };
                return Err(anyhow!("{}: no {what}: {why}; last lines:\n{}", self.name, tail(&seen)));
            }
            seen = self.output.changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Signals the program itself.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.send(self.child.id() as libc::pid_t, signal)
    }

    /// Signals the program and whatever it has started.
    pub fn signal_group(&self, signal: Signal) -> Result<()> {
        self.send(-(self.child.id() as libc::pid_t), signal)
    }

    fn send(&self, target: libc::pid_t, signal: Signal) -> Result<()> {
        if self.status.is_some() {
            // The id may belong to somebody else by now.
            bail!("{} has already ended", self.name);
        }
        // SAFETY: kill has no memory obligations; the target is a child that we have not reaped, so the id is ours.
        let done = unsafe { libc::kill(target, signal.number()) };
        if done != 0 {
            return Err(std::io::Error::last_os_error()).with_context(|| format!("signal to {}", self.name));
        }
        Ok(())
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> Result<bool> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status.is_none())
    }

    /// Waits for the program to end by itself.
    pub fn wait_exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let (child, status) = (&mut self.child, &mut self.status);
        if status.is_none() {
            let ended = crate::wait::eventually_some(deadline, &what, || child.try_wait().transpose());
            *status = Some(
                ended.map_err(|error| anyhow!("{error}; last lines:\n{}", tail(&self.output.lock())))??,
            );
        }
        self.status.context("ended")
    }

    /// Asks it to end (SIGTERM) and waits.
    pub fn stop(&mut self, deadline: Duration) -> Result<ExitStatus> {
        if self.is_running()? {
            self.signal(Signal::Term)?;
        }
        self.wait_exit(deadline)
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.signal_group(Signal::Kill);
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("-- last lines of {} --\n{}", self.name, tail(&self.output.lock()));
        }
    }
}

fn read_lines(pipe: impl Read + Send + 'static, output: &Arc<Output>) {
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n') {
            match line {
                Ok(line) => output.add(String::from_utf8_lossy(&line).into_owned()),
                Err(_) => break,
            }
        }
        output.closed();
    });
}

fn tail(seen: &Seen) -> String {
    const SHOWN: usize = 30;
    let skip = seen.lines.len().saturating_sub(SHOWN);
    seen.lines.iter().skip(skip).map(|line| format!("    {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Proc {
        Proc::spawn(Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn lines_are_found_and_the_end_is_seen() {
        let mut proc = shell("echo one; echo port=42 >&2; exit 3");
        assert_eq!(proc.wait_for_line("one", LONG).unwrap(), "one");
        let port =
            proc.wait_for("a port", LONG, |line| line.strip_prefix("port=")?.parse::<u16>().ok()).unwrap();
        assert_eq!(port, 42);
        assert_eq!(proc.wait_exit(LONG).unwrap().code(), Some(3));
        assert!(proc.wait_for_line("two", LONG).unwrap_err().to_string().contains("its output ended"));
        assert!(proc.signal(Signal::Term).is_err());
    }

    #[test]
    fn dropping_ends_the_whole_group() {
        let proc = shell("sleep 1000 & echo child=$!; wait");
        let child =
            proc.wait_for("a child", LONG, |line| line.strip_prefix("child=").map(str::to_string)).unwrap();
        drop(proc);
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        crate::eventually(LONG, "the end of the grandchild", gone).unwrap();
    }

    #[test]
    fn only_what_comes_after_a_mark() {
        let mut proc = Proc::spawn_with_stdin(&mut Command::new("cat")).unwrap();
        use std::io::Write;
        proc.stdin().unwrap().write_all(b"same\n").unwrap();
        proc.wait_for_line("same", LONG).unwrap();
        let mark = proc.mark();
        proc.stdin().unwrap().write_all(b"same again\n").unwrap();
        let line = proc.wait_for_after(mark, "line", LONG, |line| Some(line.to_string())).unwrap();
        assert_eq!(line, "same again");
    }
}
