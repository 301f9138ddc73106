//! Peers that speak: what they hear decides what they say. How fast they write and read is their [`Behaviour`]'s.
//!
//! [`Behaviour`]: super::Behaviour

use super::conn::PeerEnd;
use super::{Action, SimNet};
use fourfold_base::Millis;
use std::collections::VecDeque;
use std::fmt;

/// A peer's mind.
pub trait Script {
    /// The peer has read these bytes.
    fn hear(&mut self, now: Millis, bytes: &[u8]);
    /// It will read nothing more.
    fn hear_end(&mut self, now: Millis, how: Ended);
    /// What it does next: asked when what it said has left, when its time has come, and whenever it has heard something.
    /// `saying`: bytes are still on their way out, and it may only wait or end.
    fn next(&mut self, now: Millis, saying: bool) -> Move;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    Fin,
    Reset,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Move {
    Say(Vec<u8>),
    /// Until then, or until it hears something.
    Wait(Option<Millis>),
    /// FIN, and goes on reading. Bytes that have not left are dropped, here and below.
    Finish,
    /// FIN, and what comes later is answered by RST; or RST if bytes are unread.
    Close,
    Reset,
}

/// A script and the bytes between it and the app.
pub(super) struct Talk {
    script: Box<dyn Script>,
    /// Said, not yet written.
    pending: VecDeque<u8>,
    /// Written, not yet given to the app.
    pub(super) written: VecDeque<u8>,
    /// Taken from the app, not yet read.
    heard: VecDeque<u8>,
    pub(super) taken: u64,
    /// The latest time for which a step is on the agenda.
    due: Option<Millis>,
}

impl fmt::Debug for Talk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pending, written, heard, taken, .. } = self;
        write!(
            f,
            "{} pending, {} written, {} heard, {taken} taken",
            pending.len(),
            written.len(),
            heard.len()
        )
    }
}

impl Talk {
    pub(super) fn new(script: Box<dyn Script>) -> Box<Self> {
        let (pending, written, heard) = Default::default();
        Box::new(Self { script, pending, written, heard, taken: 0, due: None })
    }

    pub(super) fn left(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn write(&mut self, count: usize) {
        self.written.extend(self.pending.drain(..count));
    }

    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.heard.extend(bytes);
        self.taken += bytes.len() as u64;
    }

    pub(super) fn read(&mut self, now: Millis, count: usize) {
        let bytes: Vec<u8> = self.heard.drain(..count).collect();
        if !bytes.is_empty() {
            self.script.hear(now, &bytes);
        }
    }

    pub(super) fn end(&mut self, now: Millis, how: Ended) {
        self.script.hear_end(now, how);
    }
}

impl SimNet {
    /// A peer that speaks makes its next move.
    pub(super) fn step(&mut self, conn: usize) {
        let now = self.now;
        let Some(entry) = self.conns.get_mut(conn) else { return };
        let reachable = entry.made_at.is_some() && entry.peer == PeerEnd::Open;
        let Some(talk) = entry.talk.as_mut().filter(|_| reachable) else { return };
        talk.due.take_if(|due| *due <= now);
        match talk.script.next(now, talk.left() > 0) {
            Move::Say(bytes) if talk.left() == 0 && !entry.fin => {
                talk.pending.extend(bytes);
                self.wake_writer(conn);
            }
            Move::Wait(Some(at)) if talk.due.is_none_or(|due| at < due) => {
                talk.due = Some(at);
                self.schedule(at.max(now + 1), Action::Step(conn));
            }
            Move::Say(_) | Move::Wait(_) => {}
            Move::Finish if entry.fin => {}
            Move::Finish => {
                talk.pending.clear();
                self.peer_sends_fin(conn);
            }
            Move::Close => self.peer_closes(conn),
            Move::Reset => self.peer_resets(conn),
        }
    }

    /// Told to a peer whose connection was cut.
    pub(super) fn tell_reset(&mut self, conn: usize) {
        let now = self.now;
        if let Some(talk) = self.conns.get_mut(conn).and_then(|entry| entry.talk.as_mut()) {
            talk.end(now, Ended::Reset);
        }
    }
}
