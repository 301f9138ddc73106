//! One virtual TCP connection: what the kernel between the app and its peer knows, and the peer's part of the play.
//!
//! ```text
//! peer ── written ──▶ [our receive buffer] ── delivered ──▶ app
//! peer ◀── reader ─── [kernels' buffers, `window`] ◀── taken ─── app
//! ```

use super::content::{Reader, Wrong, fill};
use super::machine::Tuple;
use super::script::Talk;
use crate::net::{Close, ListenerId, Sock};
use fourfold_base::Millis;
use fourfold_sys::Errno;
use fourfold_sys::socket::Step;
use std::net::SocketAddr;

/// What a peer writes beyond this waits until the app reads.
pub const RECEIVE_BUFFER: u64 = 128 * 1024;

/// When a peer starts to write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    AtOnce,
    /// Once it has read so many bytes.
    AfterBytes(u64),
    /// Once it has read the other side's FIN.
    AfterEof,
}

/// What a peer does once all is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// FIN, and goes on reading.
    Finish,
    FinishAfterEof,
    /// Closes its socket: FIN, and what comes later is answered by RST.
    Close,
    Reset,
    /// Neither, ever.
    Stay,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Break {
    Reset,
    /// Nothing is heard of it any more, and it takes nothing.
    Vanish,
}

/// A peer's script.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// 0, or at least [`super::content::HEADER_BYTES`].
    pub send_bytes: u64,
    pub start: Start,
    /// Largest piece written, and the longest time between two.
    pub write_max: u32,
    pub write_gap_ms: u32,
    pub end: End,
    pub read_max: u32,
    pub read_gap_ms: u32,
    /// Reads no further than this, ever.
    pub read_stop: Option<u64>,
    /// Bytes that the kernels hold between the app and this peer.
    pub window: u32,
    /// So long after the connection was made.
    pub break_after: Option<(Millis, Break)>,
}

impl Default for Behaviour {
    /// Says nothing, reads everything at once, answers FIN by FIN.
    fn default() -> Self {
        Self {
            send_bytes: 0,
            start: Start::AtOnce,
            write_max: 16 * 1024,
            write_gap_ms: 0,
            end: End::FinishAfterEof,
            read_max: u32::MAX,
            read_gap_ms: 0,
            read_stop: None,
            window: 64 * 1024,
            break_after: None,
        }
    }
}

/// How a connect ends, and when.
#[derive(Clone, Debug)]
pub struct Answer {
    pub after: Millis,
    pub outcome: Result<Behaviour, (Step, Errno)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A client of one of our listeners.
    Client(ListenerId),
    /// A server that the app connected to.
    Server,
}

/// Where the app's end is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppEnd {
    /// The client has not come yet, or the server not answered.
    Early,
    /// In the backlog.
    Backlog,
    Open(Sock),
    Closed(Close),
    /// The listener was closed, or the connect failed: there never was one.
    Never,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerEnd {
    Open,
    /// Its socket is closed: it answers by RST.
    Closed,
    /// It sent RST, got RST, or the connection was never made.
    Gone,
    Vanished,
}

/// A connection's record, kept to the end for whoever judges the run.
#[derive(Debug)]
pub struct Connection {
    pub kind: Kind,
    /// The number in the header of what the peer writes.
    pub stream: u32,
    pub remote: SocketAddr,
    pub behaviour: Behaviour,
    /// A peer that speaks, instead of writing its stream.
    pub(super) talk: Option<Box<Talk>>,
    /// By which the app knows its end, once it has said so.
    pub owner: Option<u64>,
    pub app: AppEnd,
    pub peer: PeerEnd,
    pub made_at: Option<Millis>,
    /// When the app was told of it: accepted, or connected.
    pub told_at: Option<Millis>,
    /// How the connect failed, if it did.
    pub refusal: Option<(Step, Errno)>,

    /// Peer to app: what has arrived, what the app was given.
    pub written: u64,
    pub delivered: u64,
    /// When either last grew.
    pub moved_at: Millis,
    /// What the app left unread.
    pub unread_at_close: u64,
    /// The peer's FIN has arrived, after `written` bytes.
    pub fin: bool,
    /// When the app was told so.
    pub eof_told_at: Option<Millis>,
    /// The connection broke on the peer's or the net's side.
    pub broken: Option<Errno>,
    /// The app was told so.
    pub failure_told: bool,

    /// App to peer: what the kernel took, and its content.
    pub reader: Reader,
    /// When it last took some.
    pub taken_at: Millis,
    /// What had been taken when the peer's socket went.
    pub(super) acked_at_end: Option<u64>,
    /// What the peer has read of that, and when.
    pub read: u64,
    pub read_at: Millis,
    /// What it would have taken when the app closed.
    pub room_at_close: u64,
    /// The app's FIN has left.
    pub fin_sent: bool,
    /// By its close, not before.
    pub fin_by_close: bool,
    pub closed_at: Option<Millis>,
    /// The peer has read everything and the FIN.
    pub peer_eof: bool,
    /// The app's RST has reached the peer.
    pub peer_reset: bool,

    pub(super) tuple: Option<Tuple>,
    /// Both FINs have been exchanged, ours first: since when.
    pub(super) time_wait_since: Option<Millis>,
    pub(super) write_due: bool,
    pub(super) read_due: bool,
    /// The writer waits for room in our receive buffer.
    pub(super) write_blocked: bool,
    pub(super) wrote_first: bool,
}

impl Connection {
    pub(super) fn new(kind: Kind, stream: u32, remote: SocketAddr, behaviour: Behaviour) -> Self {
        Self {
            kind,
            stream,
            remote,
            behaviour,
            talk: None,
            owner: None,
            app: AppEnd::Early,
            peer: PeerEnd::Open,
            made_at: None,
            told_at: None,
            refusal: None,
            written: 0,
            delivered: 0,
            moved_at: 0,
            unread_at_close: 0,
            fin: false,
            eof_told_at: None,
            broken: None,
            failure_told: false,
            reader: Reader::default(),
            read: 0,
            read_at: 0,
            room_at_close: 0,
            taken_at: 0,
            acked_at_end: None,
            fin_sent: false,
            fin_by_close: false,
            closed_at: None,
            peer_eof: false,
            peer_reset: false,
            tuple: None,
            time_wait_since: None,
            write_due: false,
            read_due: false,
            write_blocked: false,
            wrote_first: false,
        }
    }

    /// Bytes that the kernel took from the app.
    pub fn taken(&self) -> u64 {
        self.talk.as_ref().map_or(self.reader.position(), |talk| talk.taken)
    }
    /// Bytes that the peer's kernel has acknowledged: while its socket is there it acknowledges at once.
    pub fn acked(&self) -> u64 {
        self.acked_at_end.unwrap_or(self.taken())
    }
    /// Bytes that wait for the app.
    pub fn available(&self) -> u64 {
        self.written - self.delivered
    }
    /// Bytes that the kernel would take from the app.
    pub fn room(&self) -> u64 {
        u64::from(self.behaviour.window).saturating_sub(self.taken() - self.read)
    }
    /// The peer's FIN came, or ours was sent, and the other did not before.
    pub fn is_over_for_peer(&self) -> bool {
        self.peer != PeerEnd::Open || self.peer_reset || (self.fin && self.peer_eof)
    }

    /// The peer's socket acknowledges nothing more.
    pub(super) fn leave(&mut self, end: PeerEnd) {
        self.peer = end;
        self.acked_at_end = Some(self.taken());
    }
    pub(super) fn has_started(&self) -> bool {
        match self.behaviour.start {
            Start::AtOnce => true,
            Start::AfterBytes(n) => self.read >= n || self.peer_eof,
            Start::AfterEof => self.peer_eof,
        }
    }
    pub(super) fn may_end(&self) -> bool {
        self.behaviour.end != End::FinishAfterEof || self.peer_eof
    }
    /// The peer has nothing to write for now.
    pub(super) fn is_silent(&self) -> bool {
        match &self.talk {
            Some(talk) => talk.left() == 0,
            None => !self.has_started() || (self.written == self.behaviour.send_bytes && !self.may_end()),
        }
    }
    pub(super) fn left_to_write(&self) -> u64 {
        match &self.talk {
            Some(talk) => talk.left() as u64,
            None => self.behaviour.send_bytes - self.written,
        }
    }
    pub(super) fn write(&mut self, count: u64) {
        self.written += count;
        if let Some(talk) = &mut self.talk {
            talk.write(count as usize);
        }
    }
    /// The app gets what was written.
    pub(super) fn deliver(&mut self, bytes: &mut [u8]) {
        match &mut self.talk {
            Some(talk) => {
                let said = talk.written.drain(..bytes.len());
                said.zip(bytes.iter_mut()).for_each(|(from, to)| *to = from);
            }
            None => fill(self.stream, self.delivered, bytes),
        }
        self.delivered += bytes.len() as u64;
    }
    /// The kernel takes what the app sent.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), Wrong> {
        match &mut self.talk {
            Some(talk) => talk.take(bytes),
            None => self.reader.take(bytes)?,
        }
        Ok(())
    }
    /// What the peer would read now.
    pub(super) fn readable_by_peer(&self) -> u64 {
        let stop = self.behaviour.read_stop.unwrap_or(u64::MAX);
        (self.taken() - self.read).min(stop.saturating_sub(self.read))
    }
}
