//! The access log's way to real files, FIFOs and sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use fourfold_proxy::access::{AccessLog, Ending, Format, QUEUE_BYTES_MAX, Queue, Record, Target, Writer};
use fourfold_testkit::eventually;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Long enough for any machine; nothing waits for it unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory that goes with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("fourfold-log-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn fifo(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One log with a writer.
struct World {
    queue: Arc<Queue>,
    writer: Writer,
    target: Target,
}

impl World {
    fn new(shards: usize, target: Target) -> Self {
        let queue = Queue::new(Format::Json, shards);
        let writer = Writer::start(Arc::clone(&queue), target.clone(), || 0).unwrap();
        Self { queue, writer, target }
    }

    fn shard(&self, shard: usize) -> AccessLog {
        AccessLog::new(Arc::clone(&self.queue), shard)
    }

    fn stop(self) {
        assert!(self.writer.stop(PATIENCE), "{} still has the writer", self.target);
    }
}

/// Tells a line from all others.
fn write(log: &mut AccessLog, shard: usize, number: u64) {
    let name = format!("shard{shard}");
    let id = number.to_string();
    log.write(&Record { listener: &name, request_id: id.as_bytes(), ..Record::default() });
}

/// Shard and number of a line; panics on what is not a whole line.
fn read_line(line: &str) -> (usize, u64) {
    let value: serde_json::Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    let shard = value["listener"].as_str().unwrap().strip_prefix("shard").unwrap().parse().unwrap();
    (shard, value["request_id"].as_str().unwrap().parse().unwrap())
}

fn read_lines(path: &Path) -> Vec<(usize, u64)> {
    fs::read_to_string(path).unwrap().lines().map(read_line).collect()
}

/// Of one shard, the numbers in the order in which they were written down.
fn of_shard(lines: &[(usize, u64)], shard: usize) -> Vec<u64> {
    lines.iter().filter(|line| line.0 == shard).map(|line| line.1).collect()
}

#[test]
fn lines_of_all_shards_arrive_in_order() {
    let folder = Folder::new();
    let path = folder.join("access.log");
    let world = World::new(3, Target::File(path.clone()));
    std::thread::scope(|scope| {
        for shard in 0..3 {
            let mut log = world.shard(shard);
            scope.spawn(move || {
                for number in 0..5000 {
                    write(&mut log, shard, number);
                    if number % 7 == 0 {
                        log.flush();
                    }
                }
            });
        }
    });
    let queue = Arc::clone(&world.queue);
    world.stop();
    let lines = read_lines(&path);
    for shard in 0..3 {
        assert_eq!(of_shard(&lines, shard), (0..5000).collect::<Vec<_>>());
    }
    let stats = queue.stats();
    assert_eq!((stats.written, stats.dropped, stats.lost), (15_000, 0, 0));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o137, 0, "others may read who asked for what");
}

fn utc_day() -> String {
    let output = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Nobody else has to do anything for a line to become visible, and its time is the wall clock's.
#[test]
fn a_line_shows_without_more_traffic() {
    let folder = Folder::new();
    let path = folder.join("access.log");
    let before = utc_day();
    let world = World::new(1, Target::File(path.clone()));
    let mut log = world.shard(0);
    write(&mut log, 0, 1);
    log.flush();
    eventually(PATIENCE, "the line", || !read_lines(&path).is_empty()).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let after = utc_day();
    assert!(text.contains(&before) || text.contains(&after), "{text}: neither {before} nor {after}");
    world.stop();
}

#[test]
fn rotation_loses_nothing() {
    const ROTATIONS: u64 = 20;
    const LINES: u64 = 500;
    let folder = Folder::new();
    let path = folder.join("access.log");
    let world = World::new(1, Target::File(path.clone()));
    let mut log = world.shard(0);
    for rotation in 0..ROTATIONS {
        for number in 0..LINES {
            write(&mut log, 0, rotation * LINES + number);
            log.flush();
        }
        fs::rename(&path, folder.join(&format!("access.log.{rotation:02}"))).unwrap();
        world.writer.reopen();
        eventually(PATIENCE, "the new file", || path.exists()).unwrap();
    }
    world.stop();
    let old = (0..ROTATIONS).map(|rotation| folder.join(&format!("access.log.{rotation:02}")));
    let lines: Vec<u64> = old.chain([path]).flat_map(|path| of_shard(&read_lines(&path), 0)).collect();
    assert_eq!(lines, (0..ROTATIONS * LINES).collect::<Vec<_>>());
}

/// What was open stays in use, and the file is there again once its directory is.
#[test]
fn a_vanished_directory_is_survived() {
    let folder = Folder::new();
    let (logs, moved) = (folder.join("logs"), folder.join("moved"));
    fs::create_dir(&logs).unwrap();
    let world = World::new(1, Target::File(logs.join("access.log")));
    let mut log = world.shard(0);
    fs::rename(&logs, &moved).unwrap();
    world.writer.reopen();
    write(&mut log, 0, 1);
    log.flush();
    eventually(PATIENCE, "a line in the old file", || read_lines(&moved.join("access.log")).len() == 1)
        .unwrap();
    assert!(!logs.exists());
    fs::create_dir(&logs).unwrap();
    eventually(PATIENCE, "the new file", || logs.join("access.log").exists()).unwrap();
    write(&mut log, 0, 2);
    log.flush();
    world.stop();
    assert_eq!(read_lines(&logs.join("access.log")), [(0, 2)]);
    assert_eq!(read_lines(&moved.join("access.log")), [(0, 1)]);
}

#[test]
fn a_deleted_file_comes_back() {
    let folder = Folder::new();
    let path = folder.join("access.log");
    let world = World::new(1, Target::File(path.clone()));
    fs::remove_file(&path).unwrap();
    eventually(PATIENCE, "the file", || path.exists()).unwrap();
    let mut log = world.shard(0);
    write(&mut log, 0, 1);
    log.flush();
    world.stop();
    assert_eq!(read_lines(&path), [(0, 1)]);
}

#[test]
fn a_full_disk_costs_lines_and_nothing_else() {
    let world = World::new(1, Target::File("/dev/full".into()));
    let (mut log, queue) = (world.shard(0), Arc::clone(&world.queue));
    for number in 0..1000 {
        write(&mut log, 0, number);
        log.flush();
    }
    world.stop();
    let stats = queue.stats();
    assert_eq!((stats.written, stats.dropped, stats.lost), (0, 0, 1000));
}

#[test]
fn what_cannot_be_opened_at_the_start_is_an_error() {
    let folder = Folder::new();
    for target in [
        Target::File(folder.join("missing").join("access.log")),
        Target::File(folder.0.clone()),
        Target::SyslogUnix(folder.join("no-daemon")),
    ] {
        assert!(Writer::start(Queue::new(Format::Json, 1), target.clone(), || 0).is_err(), "{target}");
    }
}

/// Nobody reads: shards go on at full speed, what waits is bounded, and every line is either delivered whole or counted.
#[test]
fn a_reader_that_stands_still_stops_no_shard() {
    const SHARDS: usize = 2;
    const LINES: u64 = 40_000;
    let folder = Folder::new();
    let path = folder.fifo("fifo");
    let world = World::new(SHARDS, Target::File(path.clone()));
    let reader = File::open(&path).unwrap();
    std::thread::scope(|scope| {
        for shard in 0..SHARDS {
            let mut log = world.shard(shard);
            scope.spawn(move || {
                for number in 0..LINES {
                    write(&mut log, shard, number);
                    if number % 5 == 0 {
                        log.flush();
                    }
                }
            });
        }
    });
    // The shards are done, and nothing has been read yet.
    let queue = Arc::clone(&world.queue);
    assert!(queue.stats().dropped > 0, "{:?}: more was written than may wait", queue.stats());
    let reading = std::thread::spawn(move || {
        let mut bytes = 0;
        let lines: Vec<_> = BufReader::new(reader)
            .lines()
            .map(|line| line.unwrap())
            .inspect(|line| bytes += line.len() + 1)
            .map(|line| read_line(&line))
            .collect();
        (lines, bytes)
    });
    world.stop();
    let ((lines, bytes), stats) = (reading.join().unwrap(), queue.stats());
    assert_eq!((stats.written, stats.lost), (lines.len() as u64, 0));
    assert_eq!(stats.written + stats.dropped, SHARDS as u64 * LINES);
    // What waited in the boxes, and what the writer had taken out of them.
    assert!(bytes <= 2 * QUEUE_BYTES_MAX, "{bytes} bytes had waited");
    for shard in 0..SHARDS {
        assert!(of_shard(&lines, shard).is_sorted());
    }
}

/// A writer that hangs in a FIFO without a reader does not keep the program from ending.
#[test]
fn stopping_has_a_deadline() {
    let folder = Folder::new();
    let path = folder.fifo("fifo");
    let world = World::new(1, Target::File(path.clone()));
    assert!(!world.writer.stop(Duration::from_millis(50)));
    // Lets the thread end.
    let mut rest = String::new();
    File::open(&path).unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

/// A reader that leaves in the midst of a line: the next one finds that piece ended, and whole lines behind it.
#[test]
fn a_torn_line_is_ended_before_the_next() {
    let folder = Folder::new();
    let path = folder.fifo("fifo");
    let world = World::new(1, Target::File(path.clone()));
    let mut log = world.shard(0);
    let mut first = File::open(&path).unwrap();
    for number in 0..2000 {
        write(&mut log, 0, number);
    }
    log.flush();
    // More than a pipe holds was flushed at once, so that the writer now waits in the midst of its batch.
    first.read_exact(&mut [0; 5000]).unwrap();
    drop(first);
    let queue = Arc::clone(&world.queue);
    eventually(PATIENCE, "the rest of the batch to be given up", || queue.stats().lost > 0).unwrap();
    let second = File::open(&path).unwrap();
    let lost = queue.stats().lost;
    let reading = std::thread::spawn(|| BufReader::new(second).lines().map(|line| line.unwrap()).collect());
    write(&mut log, 0, 1_000_000);
    log.flush();
    world.stop();
    let lines: Vec<String> = reading.join().unwrap();
    assert_eq!(read_line(lines.last().unwrap()), (0, 1_000_000));
    let torn =
        lines.iter().skip(1).filter(|line| serde_json::from_str::<serde_json::Value>(line).is_err()).count();
    assert!(torn <= 1, "{torn} torn lines");
    assert_eq!(queue.stats().lost, lost);
}

fn receive(mut receive: impl FnMut(&mut [u8]) -> std::io::Result<usize>) -> String {
    let mut bytes = [0; 16 << 10];
    let len = receive(&mut bytes).unwrap();
    String::from_utf8(bytes[..len].to_vec()).unwrap()
}

#[test]
fn syslog_over_udp_is_rfc_5424() {
    let daemon = UdpSocket::bind("127.0.0.1:0").unwrap();
    daemon.set_read_timeout(Some(PATIENCE)).unwrap();
    let world = World::new(1, Target::SyslogUdp(daemon.local_addr().unwrap()));
    let mut log = world.shard(0);
    for number in 0..3 {
        write(&mut log, 0, number);
    }
    log.flush();
    for number in 0..3 {
        let message = receive(|bytes| daemon.recv(bytes));
        // HEADER = PRI VERSION SP TIMESTAMP SP HOSTNAME SP APP-NAME SP PROCID SP MSGID, then SP STRUCTURED-DATA SP MSG.
        let parts: Vec<&str> = message.splitn(8, ' ').collect();
        let process = std::process::id().to_string();
        assert_eq!(
            (parts[0], parts[3], parts[4], parts[5], parts[6]),
            ("<190>1", "fourfold", &*process, "access", "-")
        );
        assert!(parts[1].len() == 27 && parts[1].ends_with('Z'), "{message}");
        assert!(!parts[2].is_empty() && read_line(parts[7]) == (0, number), "{message}");
    }
    world.stop();
}

#[test]
fn local_syslog_survives_the_daemon() {
    let folder = Folder::new();
    let path = folder.join("log");
    let daemon = UnixDatagram::bind(&path).unwrap();
    daemon.set_read_timeout(Some(PATIENCE)).unwrap();
    let world = World::new(1, Target::SyslogUnix(path.clone()));
    let mut log = world.shard(0);
    let mut send = |number| {
        write(&mut log, 0, number);
        log.flush();
    };
    send(1);
    let message = receive(|bytes| daemon.recv(bytes));
    let (header, text) = message.split_once(&format!(" fourfold[{}]: ", std::process::id())).unwrap();
    assert!(header.starts_with("<190>") && header.len() == "<190>Nov 21 10:11:12".len(), "{header}");
    assert_eq!(read_line(text), (0, 1));
    // The daemon ends, and lines are lost; it comes back under the same name, and they arrive again.
    drop(daemon);
    fs::remove_file(&path).unwrap();
    send(2);
    eventually(PATIENCE, "a lost line", || world.queue.stats().lost == 1).unwrap();
    let daemon = UnixDatagram::bind(&path).unwrap();
    daemon.set_read_timeout(Some(PATIENCE)).unwrap();
    send(3);
    assert!(receive(|bytes| daemon.recv(bytes)).contains("\"request_id\":\"3\""));
    world.stop();
}

#[test]
fn a_line_too_long_for_syslog_is_cut() {
    let daemon = UdpSocket::bind("127.0.0.1:0").unwrap();
    daemon.set_read_timeout(Some(PATIENCE)).unwrap();
    let world = World::new(1, Target::SyslogUdp(daemon.local_addr().unwrap()));
    let mut log = world.shard(0);
    let hostile = [0; 1024];
    log.write(&Record { path: &hostile, query: Some(&hostile), ..Record::default() });
    log.flush();
    let message = receive(|bytes| daemon.recv(bytes));
    assert!(message.len() == 8 << 10 && message.ends_with("..."), "{} bytes", message.len());
    world.stop();
}

#[test]
fn the_guide_lists_every_ending() {
    const BEGIN: &str =
        "<!-- endings: generated, UPDATE=1 cargo test -p fourfold-proxy --test access_log writes them -->\n";
    const END: &str = "<!-- end -->";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/access-log.md");
    let text = fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(BEGIN).unwrap();
    let (_, tail) = rest.split_once(END).unwrap();
    let row =
        |ending: &Ending| format!("| `{}` | `{}` | {} |\n", ending.code(), ending.name(), ending.meaning());
    let rows: String = Ending::ALL.iter().map(row).collect();
    let wanted = format!("{head}{BEGIN}| code | name | meaning |\n|---|---|---|\n{rows}{END}{tail}");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    let now = fs::read_to_string(&path).unwrap();
    assert!(now == wanted, "stale: UPDATE=1 cargo test -p fourfold-proxy --test access_log");
}
