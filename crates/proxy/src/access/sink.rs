//! Where lines end up. A sink is used by the writer's thread alone and may take its time.

use super::syslog::Syslog;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Readable for the group, as logs are: they say who asked for what.
const FILE_MODE: u32 = 0o640;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    File(PathBuf),
    Stdout,
    /// The local daemon's socket, `/dev/log` mostly, in the form of syslog(3).
    SyslogUnix(PathBuf),
    /// RFC 5424 over UDP (RFC 5426).
    SyslogUdp(SocketAddr),
}

impl Target {
    /// Opening a FIFO waits for its reader, so that only the writer's thread may do it.
    pub(super) fn may_block(&self) -> bool {
        matches!(self, Target::File(path) if path.metadata().is_ok_and(|found| found.file_type().is_fifo()))
    }

    pub(super) fn open(&self) -> io::Result<Sink> {
        match self {
            Target::File(path) => Ok(Sink::Stream(Stream::new(open_file(path)?))),
            Target::Stdout => {
                let stdout = io::stdout().as_fd().try_clone_to_owned()?;
                Ok(Sink::Stream(Stream::new(File::from(stdout))))
            }
            Target::SyslogUnix(path) => Syslog::unix(path).map(Sink::Syslog),
            Target::SyslogUdp(address) => Syslog::udp(*address).map(Sink::Syslog),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::File(path) => path.display().fmt(f),
            Target::Stdout => f.write_str("standard output"),
            Target::SyslogUnix(path) => write!(f, "syslog at {}", path.display()),
            Target::SyslogUdp(address) => write!(f, "syslog at {address}"),
        }
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)
}

pub(super) enum Sink {
    Stream(Stream),
    Syslog(Syslog),
}

/// What became of a batch.
#[derive(Default)]
pub(super) struct Outcome {
    pub written: u64,
    pub lost: u64,
    pub error: Option<io::Error>,
}

impl Sink {
    /// `lines` are whole. Lines that could not be written are counted, not kept.
    pub(super) fn write(&mut self, lines: &[u8], unix_us: i64) -> Outcome {
        match self {
            Sink::Stream(stream) => stream.write(lines),
            Sink::Syslog(syslog) => syslog.write(lines, unix_us),
        }
    }

    /// Somebody has deleted the file: what is written to it now is in vain.
    pub(super) fn is_deleted(&self) -> bool {
        let Sink::Stream(Stream { file, .. }) = self else { return false };
        file.metadata().is_ok_and(|found| found.is_file() && found.nlink() == 0)
    }
}

/// A file, a FIFO, or standard output.
pub(super) struct Stream {
    file: File,
    /// The last write ended inside a line.
    torn: bool,
}

impl Stream {
    fn new(file: File) -> Self {
        Self { file, torn: false }
    }

    fn write(&mut self, lines: &[u8]) -> Outcome {
        let mut rest = lines;
        let mut error = None;
        if self.torn {
            error = self.push(b"\n").1;
        }
        if error.is_none() {
            (rest, error) = self.push(lines);
        }
        let lost = count_lines(rest);
        Outcome { written: count_lines(lines) - lost, lost, error }
    }

    /// What is left, and why.
    fn push<'a>(&mut self, mut bytes: &'a [u8]) -> (&'a [u8], Option<io::Error>) {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return (bytes, Some(io::ErrorKind::WriteZero.into())),
                Ok(taken) => {
                    let (done, rest) = bytes.split_at_checked(taken).unwrap_or((bytes, &[]));
                    self.torn = !done.ends_with(b"\n");
                    bytes = rest;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (bytes, Some(error)),
            }
        }
        (bytes, None)
    }
}

pub(super) fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}
