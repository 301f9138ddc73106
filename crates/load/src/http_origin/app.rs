//! The origin of one shard.
//!
//! ```text
//! Accepted ──► Head ──request──► Body ──whole──► Waiting ──delay over──► Sending ──last byte──► Head
//!               │  └─────────── nothing to wait for: answered at once ──────────────────────────┘
//!               ├──handshake──► WebSocket ──close──┐
//!               └──malformed, close, FIN ──────────┴──► Finishing ──FIN both ways, or LINGER_MS──► Closing ──► gone
//! ```
//! One exchange at a time: what comes before the answer is sent waits in `leftover`, and above [`LEFTOVER_BYTES_MAX`] in the
//! kernel.

use super::reply::{self, Download, SMALL_BYTES_MAX};
use super::route::{Answer, Ask};
use super::upload::Upload;
use super::websocket::{self, Peer};
use super::{HttpOriginCounters, Options};
use crate::door::Door;
use crate::http::ID_FIELD;
use crate::origin::{BUFFER_RETRY_MS, OriginMail};
use crate::wire::Malformed;
use crate::wire::body::Framing;
use crate::wire::head::{HEAD_BYTES_MAX, Request, Version, fields, head_end};
use fourfold_base::Millis;
use fourfold_base::slab::{Key, Slab};
use fourfold_engine::{App, Buf, Close, Event, Handler, Net, Pressure, Sock};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of later requests that wait while one is answered.
const LEFTOVER_BYTES_MAX: usize = 64 * 1024;
/// After our FIN the peer's is awaited so long: closing at once could reset what it has not read.
const LINGER_MS: Millis = 2_000;

enum State {
    Head,
    Body(Box<Upload>),
    Waiting {
        ask: Box<Ask>,
        until: Millis,
    },
    Sending(Box<Download>),
    WebSocket(Box<Peer>),
    /// No more is sent; what comes is dropped.
    Finishing {
        until: Millis,
        finished: bool,
    },
    Closing,
}

struct Conn {
    sock: Sock,
    state: State,
    /// Received and not yet looked at.
    leftover: Vec<u8>,
    /// What found no buffer.
    unsent: Vec<u8>,
    answered: u32,
    /// The peer has sent FIN.
    eof: bool,
    /// The socket's queue is full.
    full: bool,
    paused: bool,
}

/// The latest request that has a small answer and no body: most of a benchmark's requests are the same bytes.
struct Hot {
    head: Vec<u8>,
    answer: Vec<u8>,
}

/// The app of one shard.
pub struct HttpOrigin {
    options: Options,
    conns: Slab<Conn>,
    counters: Arc<HttpOriginCounters>,
    door: Door,
    /// What is due when; the state of the connection says what that is, and whether it still is.
    timers: BinaryHeap<Reverse<(Millis, u64)>>,
    hot: Hot,
    record: Option<Record>,
    /// Reused from event to event.
    input: Vec<u8>,
    output: Vec<u8>,
}

/// Lines written before a request is answered, each by a write of its own: they outlive a kill.
struct Record {
    path: PathBuf,
    /// Opened and closed by the shard's thread, which may have a descriptor table of its own.
    file: Option<File>,
}

impl Record {
    fn write(&mut self, line: &[u8]) -> std::io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open_record(&self.path)?),
        };
        file.write_all(line)
    }
}

/// Origins that follow each other may write to the same file.
pub(super) fn open_record(path: &Path) -> std::io::Result<File> {
    File::options().create(true).append(true).open(path)
}

impl HttpOrigin {
    /// Accepts up to `connections_max` at a time; `slots` is what the net may hand it before it has stopped accepting.
    pub fn new(
        options: Options,
        connections_max: usize,
        slots: usize,
        counters: Arc<HttpOriginCounters>,
    ) -> Self {
        Self {
            options,
            conns: Slab::new(slots.max(connections_max)),
            counters,
            door: Door::new(connections_max),
            timers: BinaryHeap::new(),
            hot: Hot { head: Vec::new(), answer: Vec::new() },
            record: None,
            input: Vec::new(),
            output: Vec::new(),
        }
    }

    #[must_use]
    pub fn recording(self, path: Option<PathBuf>) -> Self {
        Self { record: path.map(|path| Record { path, file: None }), ..self }
    }

    fn note_request(&mut self, request: &Request, head: &[u8]) {
        let Some(record) = &mut self.record else { return };
        let id = fields(head).find(|(name, _)| name.eq_ignore_ascii_case(ID_FIELD.as_bytes()));
        let id = id.map(|(_, value)| value).unwrap_or_default();
        let line = [request.method, b" ", request.target, b" ", id, b"\n"].concat();
        if let Err(error) = record.write(&line) {
            tracing::warn!(%error, "the record of requests is not whole");
        }
    }

    fn on_accepted<N: Net>(&mut self, net: &mut N, sock: Sock) {
        if self.door.is_stopping() {
            return net.close(sock, Close::Reset);
        }
        let conn = Conn {
            sock,
            state: State::Head,
            leftover: Vec::new(),
            unsent: Vec::new(),
            answered: 0,
            eof: false,
            full: false,
            paused: false,
        };
        let Ok(key) = self.conns.insert(conn) else { return net.close(sock, Close::Reset) };
        self.counters.accepted.add(1);
        self.counters.open.add(1);
        net.adopt(sock, key.to_bits());
        self.door.entered(net, self.conns.len());
        net.receive(sock);
    }

    fn on_received<N: Net>(&mut self, net: &mut N, key: Key, buf: Buf) {
        self.counters.received_bytes.add(buf.len() as u64);
        let Some(conn) = self.conns.get_mut(key) else { return net.free(buf) };
        let known = self.record.is_none() && net.bytes(&buf) == self.hot.head;
        if known && matches!(conn.state, State::Head) && conn.leftover.is_empty() {
            net.free(buf);
            return self.answer_hot(net, key);
        }
        let mut input = std::mem::take(&mut self.input);
        input.clear();
        input.append(&mut conn.leftover);
        input.extend_from_slice(net.bytes(&buf));
        net.free(buf);
        self.feed(net, key, &mut input);
        self.input = input;
    }

    fn answer_hot<N: Net>(&mut self, net: &mut N, key: Key) {
        self.counters.requests.add(1);
        let answer = std::mem::take(&mut self.hot.answer);
        self.emit(net, key, &answer);
        self.hot.answer = answer;
        self.complete(net, key, true);
    }

    /// Looks at what has come for as long as the connection's state lets it; the rest is kept.
    fn feed<N: Net>(&mut self, net: &mut N, key: Key, input: &mut [u8]) {
        let mut at = 0;
        loop {
            let Some(conn) = self.conns.get_mut(key) else { return };
            let rest = input.get_mut(at..).unwrap_or_default();
            let used = match &mut conn.state {
                State::Head if rest.is_empty() => break,
                State::Head => self.take_head(net, key, rest),
                State::Body(_) if rest.is_empty() => break,
                State::Body(_) => self.take_body(net, key, rest),
                State::WebSocket(_) => return self.take_frames(net, key, rest),
                State::Finishing { .. } | State::Closing => return,
                State::Waiting { .. } | State::Sending(_) => break,
            };
            match used {
                Some(used) => at += used,
                None => break,
            }
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.leftover.extend_from_slice(input.get(at..).unwrap_or_default());
        let busy = matches!(conn.state, State::Waiting { .. } | State::Sending(_));
        if busy && conn.leftover.len() > LEFTOVER_BYTES_MAX && !std::mem::replace(&mut conn.paused, true) {
            net.pause(conn.sock);
        }
    }

    /// `None`: the head is not whole yet.
    fn take_head<N: Net>(&mut self, net: &mut N, key: Key, input: &[u8]) -> Option<usize> {
        let Some(length) = head_end(input).filter(|length| *length <= HEAD_BYTES_MAX) else {
            if input.len() > HEAD_BYTES_MAX {
                self.refuse(net, key, 431, Malformed("a head without end"));
            }
            return None;
        };
        let head = input.get(..length).unwrap_or_default();
        match Request::parse(head) {
            Ok(request) => self.begin(net, key, &request, head),
            Err(malformed) => self.refuse(net, key, 400, malformed),
        }
        Some(length)
    }

    fn begin<N: Net>(&mut self, net: &mut N, key: Key, request: &Request, head: &[u8]) {
        self.counters.requests.add(1);
        self.note_request(request, head);
        let ask = Ask::of(request, head, &self.options);
        match ask.answer {
            Answer::WebSocket => self.upgrade(net, key, request, &ask),
            Answer::Echo | Answer::Early | Answer::Hash | Answer::Count { .. } => {
                self.upload(net, key, ask, request.framing);
            }
            _ if !matches!(request.framing, Framing::None | Framing::Length(0)) => {
                self.upload(net, key, ask, request.framing);
            }
            Answer::Bytes(n) if n <= SMALL_BYTES_MAX && ask.delay_ms == 0 && ask.keep_alive => {
                self.hot.head.clear();
                self.hot.head.extend_from_slice(head);
                self.hot.answer.clear();
                reply::bytes(&mut self.hot.answer, n, &ask);
                self.counters.requests.sub(1);
                self.answer_hot(net, key);
            }
            _ => self.respond(net, key, ask),
        }
    }

    fn upgrade<N: Net>(&mut self, net: &mut N, key: Key, request: &Request, ask: &Ask) {
        let Some(answer) = websocket::handshake(request) else {
            let mut out = Vec::new();
            reply::status(&mut out, 426, ask);
            self.emit(net, key, &out);
            return self.complete(net, key, ask.keep_alive);
        };
        self.emit(net, key, &answer);
        self.counters.websockets.add(1);
        self.counters.completed.add(1);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.state = State::WebSocket(Box::default());
        }
    }

    fn upload<N: Net>(&mut self, net: &mut N, key: Key, ask: Ask, framing: Framing) {
        let upload = Upload::new(ask, framing);
        let mut out = Vec::new();
        upload.begin(&mut out, framing);
        self.emit(net, key, &out);
        if upload.body.is_done() {
            return self.body_whole(net, key, upload);
        }
        if let Some(conn) = self.conns.get_mut(key) {
            conn.state = State::Body(Box::new(upload));
        }
    }

    fn take_body<N: Net>(&mut self, net: &mut N, key: Key, input: &[u8]) -> Option<usize> {
        let State::Body(upload) = &mut self.conns.get_mut(key)?.state else { return None };
        let mut out = std::mem::take(&mut self.output);
        out.clear();
        let mut used = 0;
        let mut result = Ok(());
        while !upload.body.is_done() && used < input.len() {
            let rest = input.get(used..).unwrap_or_default();
            match upload.body.step(rest) {
                Ok(step) => {
                    self.counters.body_bytes.add(step.data.len() as u64);
                    upload.take(rest.get(step.data).unwrap_or_default(), &mut out);
                    used += step.used;
                }
                Err(malformed) => {
                    result = Err(malformed);
                    break;
                }
            }
        }
        let done = upload.body.is_done();
        self.emit(net, key, &out);
        self.output = out;
        match result {
            Ok(()) if done => self.end_body(net, key),
            Ok(()) => {}
            Err(malformed) => self.refuse(net, key, 400, malformed),
        }
        Some(used)
    }

    fn end_body<N: Net>(&mut self, net: &mut N, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if let State::Body(upload) = std::mem::replace(&mut conn.state, State::Head) {
            self.body_whole(net, key, *upload);
        }
    }

    fn body_whole<N: Net>(&mut self, net: &mut N, key: Key, upload: Upload) {
        let mut out = Vec::new();
        let (ask, answered) = upload.end(&mut out);
        self.emit(net, key, &out);
        match answered {
            true => self.complete(net, key, ask.keep_alive),
            false => self.respond(net, key, ask),
        }
    }

    /// Answers now, or after its delay.
    fn respond<N: Net>(&mut self, net: &mut N, key: Key, ask: Ask) {
        if ask.delay_ms == 0 {
            return self.send_answer(net, key, &ask);
        }
        let until = net.now().saturating_add(ask.delay_ms);
        self.set_timer(key, until);
        if let Some(conn) = self.conns.get_mut(key) {
            conn.state = State::Waiting { ask: Box::new(ask), until };
        }
    }

    fn send_answer<N: Net>(&mut self, net: &mut N, key: Key, ask: &Ask) {
        let mut out = std::mem::take(&mut self.output);
        out.clear();
        let mut download = None;
        match &ask.answer {
            Answer::Bytes(n) if *n <= SMALL_BYTES_MAX => reply::bytes(&mut out, *n, ask),
            Answer::Status(status) => reply::status(&mut out, *status, ask),
            Answer::Json(text) => reply::json(&mut out, text, ask),
            Answer::Hints => {
                if ask.version == Version::Http11 {
                    out.extend_from_slice(
                        b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n",
                    );
                }
                reply::bytes(&mut out, self.options.bytes.min(SMALL_BYTES_MAX), ask);
            }
            _ => download = Download::begin(&mut out, ask, net.now()),
        }
        self.emit(net, key, &out);
        self.output = out;
        match (download, self.conns.get_mut(key)) {
            (Some(download), Some(conn)) => {
                conn.state = State::Sending(Box::new(download));
                self.pump(net, key);
            }
            _ => self.complete(net, key, ask.keep_alive),
        }
    }

    /// Sends pieces until the socket is full, the next one is not due, or the last one has gone.
    fn pump<N: Net>(&mut self, net: &mut N, key: Key) {
        loop {
            let Some(conn) = self.conns.get_mut(key).filter(|conn| !conn.full) else { return };
            let State::Sending(download) = &mut conn.state else { return };
            if let Some(at) = download.next_ms {
                if at > net.now() {
                    return self.set_timer(key, at);
                }
                download.next_ms = Some(at.saturating_add(download.every_ms));
            }
            let mut out = std::mem::take(&mut self.output);
            out.clear();
            let (last, keep_alive) = (download.piece(&mut out), download.keep_alive);
            self.emit(net, key, &out);
            self.output = out;
            if last {
                return self.complete(net, key, keep_alive);
            }
        }
    }

    /// The answer has been handed over whole.
    fn complete<N: Net>(&mut self, net: &mut N, key: Key, keep_alive: bool) {
        self.counters.completed.add(1);
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.answered = conn.answered.saturating_add(1);
        conn.state = State::Head;
        let worn = self.options.close_after.is_some_and(|limit| conn.answered >= limit);
        if !keep_alive || worn || (conn.eof && conn.leftover.is_empty()) {
            self.finish(net, key);
        }
    }

    fn take_frames<N: Net>(&mut self, net: &mut N, key: Key, input: &mut [u8]) {
        let Some(State::WebSocket(peer)) = self.conns.get_mut(key).map(|conn| &mut conn.state) else {
            return;
        };
        let mut out = std::mem::take(&mut self.output);
        out.clear();
        let outcome = peer.feed(input, &mut out);
        if outcome.is_err() {
            websocket::protocol_error(&mut out);
        }
        self.emit(net, key, &out);
        self.output = out;
        match outcome {
            Ok(outcome) => {
                self.counters.frames.add(outcome.frames);
                if outcome.closed {
                    self.finish(net, key);
                }
            }
            Err(malformed) => {
                self.note(malformed);
                self.finish(net, key);
            }
        }
    }

    fn note(&self, malformed: Malformed) {
        self.counters.malformed.add(1);
        tracing::info!(why = malformed.0, "malformed");
    }

    fn refuse<N: Net>(&mut self, net: &mut N, key: Key, status: u16, malformed: Malformed) {
        self.note(malformed);
        let ask = Ask {
            answer: Answer::Status(status),
            delay_ms: 0,
            head_only: false,
            version: Version::Http11,
            keep_alive: false,
            invite: false,
        };
        let mut out = Vec::new();
        reply::whole(&mut out, status, "text/plain", format!("{malformed}\n").as_bytes(), &ask);
        self.emit(net, key, &out);
        self.finish(net, key);
    }

    fn finish<N: Net>(&mut self, net: &mut N, key: Key) {
        let until = net.now() + LINGER_MS;
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.state = State::Finishing { until, finished: false };
        conn.leftover = Vec::new();
        if conn.unsent.is_empty() {
            net.finish(conn.sock);
        }
        if std::mem::take(&mut conn.paused) && !conn.eof {
            net.receive(conn.sock);
        }
        self.set_timer(key, until);
    }

    fn on_finished<N: Net>(&mut self, net: &mut N, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if let State::Finishing { finished, .. } = &mut conn.state {
            *finished = true;
            if conn.eof {
                self.close(net, key, Close::Orderly);
            }
        }
    }

    fn on_eof<N: Net>(&mut self, net: &mut N, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.eof = true;
        match &conn.state {
            State::Body(_) => self.cut(net, key),
            State::Head if !conn.leftover.is_empty() => self.cut(net, key),
            State::Head | State::WebSocket(_) => self.finish(net, key),
            State::Finishing { finished: true, .. } => self.close(net, key, Close::Orderly),
            _ => {}
        }
    }

    fn cut<N: Net>(&mut self, net: &mut N, key: Key) {
        self.counters.cut.add(1);
        self.finish(net, key);
    }

    fn on_failed<N: Net>(&mut self, net: &mut N, key: Key) {
        let Some(conn) = self.conns.get(key) else { return };
        self.counters.failed.add(1);
        let unread = matches!(conn.state, State::Head) && !conn.leftover.is_empty();
        if unread || matches!(conn.state, State::Body(_)) {
            self.counters.cut.add(1);
        }
        self.close(net, key, Close::Orderly);
    }

    fn close<N: Net>(&mut self, net: &mut N, key: Key, how: Close) {
        let Some(conn) = self.conns.get_mut(key).filter(|conn| !matches!(conn.state, State::Closing)) else {
            return;
        };
        conn.state = State::Closing;
        net.close(conn.sock, how);
    }

    fn on_closed<N: Net>(&mut self, net: &mut N, key: Key) {
        if self.conns.remove(key).is_some() {
            self.counters.open.sub(1);
            self.door.left(net, self.conns.len());
        }
    }

    fn on_drained<N: Net>(&mut self, net: &mut N, key: Key) {
        let Some(conn) = self.conns.get_mut(key).filter(|conn| conn.unsent.is_empty()) else { return };
        conn.full = false;
        self.go_on(net, key);
    }

    /// After whatever stopped the connection has gone: sends, looks at what has waited, receives.
    fn go_on<N: Net>(&mut self, net: &mut N, key: Key) {
        self.pump(net, key);
        let Some(conn) = self.conns.get_mut(key) else { return };
        let mut leftover = std::mem::take(&mut conn.leftover);
        if !leftover.is_empty() {
            self.feed(net, key, &mut leftover);
        }
        let Some(conn) = self.conns.get_mut(key) else { return };
        if conn.leftover.len() <= LEFTOVER_BYTES_MAX && !conn.full && std::mem::take(&mut conn.paused) {
            net.receive(conn.sock);
        }
        // The end came while an answer was on its way.
        if conn.eof && matches!(conn.state, State::Head) {
            self.on_eof(net, key);
        }
    }

    /// Sends bytes. A full socket stops the reading, since every byte that is read makes more to send.
    fn emit<N: Net>(&mut self, net: &mut N, key: Key, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        self.counters.sent_bytes.add(bytes.len() as u64);
        let sent = if conn.unsent.is_empty() { conn.send(net, bytes) } else { 0 };
        let rest = bytes.get(sent..).unwrap_or_default();
        if !rest.is_empty() {
            conn.unsent.extend_from_slice(rest);
            conn.full = true;
            let at = net.now() + BUFFER_RETRY_MS;
            self.timers.push(Reverse((at, key.to_bits())));
        }
        if conn.full && !std::mem::replace(&mut conn.paused, true) {
            net.pause(conn.sock);
        }
    }

    /// Sends what found no buffer before.
    fn send_unsent<N: Net>(&mut self, net: &mut N, key: Key) {
        let Some(conn) = self.conns.get_mut(key).filter(|conn| !conn.unsent.is_empty()) else { return };
        let unsent = std::mem::take(&mut conn.unsent);
        conn.full = false;
        let sent = conn.send(net, &unsent);
        conn.unsent.extend_from_slice(unsent.get(sent..).unwrap_or_default());
        if !conn.unsent.is_empty() {
            conn.full = true;
            return self.set_timer(key, net.now() + BUFFER_RETRY_MS);
        }
        if matches!(conn.state, State::Finishing { .. }) {
            return net.finish(conn.sock);
        }
        self.go_on(net, key);
    }

    fn set_timer(&mut self, key: Key, at: Millis) {
        self.timers.push(Reverse((at, key.to_bits())));
    }

    fn fire_timers<N: Net>(&mut self, net: &mut N) {
        while let Some(Reverse((at, bits))) = self.timers.peek().copied() {
            if at > net.now() {
                return;
            }
            self.timers.pop();
            self.on_timer(net, Key::from_bits(bits));
        }
    }

    fn on_timer<N: Net>(&mut self, net: &mut N, key: Key) {
        self.send_unsent(net, key);
        let now = net.now();
        let Some(conn) = self.conns.get_mut(key) else { return };
        match &conn.state {
            State::Waiting { until, .. } if *until <= now => {
                let State::Waiting { ask, .. } = std::mem::replace(&mut conn.state, State::Head) else {
                    return;
                };
                self.send_answer(net, key, &ask);
                self.go_on(net, key);
            }
            State::Sending(_) => self.go_on(net, key),
            State::Finishing { until, .. } if *until <= now => self.close(net, key, Close::Orderly),
            _ => {}
        }
    }

    fn stop<N: Net>(&mut self, net: &mut N) {
        self.door.stop(net);
        // By the thread that opened it.
        self.record = None;
        for slot in 0..self.conns.slots() {
            if let Some(key) = self.conns.key_at(slot) {
                self.close(net, key, Close::Reset);
            }
        }
    }
}

impl Conn {
    /// Fills buffers and sends them; how many bytes found one.
    fn send<N: Net>(&mut self, net: &mut N, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            let Some(mut buf) = net.alloc() else { break };
            let n = rest.len().min(buf.len());
            buf.truncate(n);
            net.bytes_mut(&mut buf).copy_from_slice(rest.get(..n).unwrap_or_default());
            self.full |= net.send(self.sock, buf) == Pressure::Full;
            sent += n;
        }
        sent
    }
}

impl<N: Net> Handler<N> for HttpOrigin {
    fn on_event(&mut self, net: &mut N, event: Event) {
        match event {
            Event::Accepted { sock, .. } => self.on_accepted(net, sock),
            Event::AcceptFailed { .. } => {
                self.counters.accept_errors.add(1);
                self.door.failed(net.now());
            }
            Event::Received { owner, buf, .. } => self.on_received(net, Key::from_bits(owner), buf),
            Event::Eof { owner, .. } => self.on_eof(net, Key::from_bits(owner)),
            Event::Drained { owner, .. } => self.on_drained(net, Key::from_bits(owner)),
            Event::Finished { owner, .. } => self.on_finished(net, Key::from_bits(owner)),
            Event::Failed { owner, .. } => self.on_failed(net, Key::from_bits(owner)),
            Event::Closed { owner } => self.on_closed(net, Key::from_bits(owner)),
            Event::Unspliced { .. } => {}
            Event::Connected { sock, .. } | Event::ConnectFailed { sock, .. } => {
                net.close(sock, Close::Reset);
            }
        }
    }
}

impl<N: Net> App<N> for HttpOrigin {
    type Mail = OriginMail;

    fn start(&mut self, net: &mut N) {
        self.door.open(net);
    }

    fn on_mail(&mut self, net: &mut N, mail: OriginMail) {
        match mail {
            OriginMail::Stop => self.stop(net),
        }
    }

    fn on_turn(&mut self, net: &mut N) {
        self.door.handle_timeout(net);
        self.fire_timers(net);
    }

    fn poll_timeout(&self) -> Option<Millis> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        self.door.poll_timeout().into_iter().chain(timer).min()
    }

    fn is_finished(&self) -> bool {
        self.door.is_stopping() && self.conns.is_empty()
    }
}
