//! One end of a connection that has gone over to another protocol: says so many bytes of its own, and judges the other's.

use super::ledger::is_body;
use fourfold_base::prng::Prng;
use fourfold_engine::sim::{Move, content};

/// Most that is said at a time; no more than a buffer.
const PIECE_BYTES: u32 = 8000;

/// Bytes of one direction: their number, and how many there are to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Direction {
    pub number: u32,
    pub bytes: u32,
}

#[derive(Debug)]
pub(super) struct Tunnel {
    rng: Prng,
    says: Direction,
    said: u32,
    hears: Direction,
    heard: u64,
    finished: bool,
    other_finished: bool,
}

impl Tunnel {
    pub fn new(rng: Prng, says: Direction, hears: Direction) -> Self {
        Self { rng, says, said: 0, hears, heard: 0, finished: false, other_finished: false }
    }

    pub fn hear(&mut self, bytes: &[u8]) -> Result<(), String> {
        let right = is_body(self.hears.number, self.heard, bytes);
        self.heard += bytes.len() as u64;
        if !right || self.heard > u64::from(self.hears.bytes) {
            return Err(format!("{} bytes up to {} are not of {:?}", bytes.len(), self.heard, self.hears));
        }
        Ok(())
    }

    pub fn hear_fin(&mut self) -> Result<(), String> {
        self.other_finished = true;
        match self.heard == u64::from(self.hears.bytes) {
            true => Ok(()),
            false => Err(format!("{} bytes of {:?}", self.heard, self.hears)),
        }
    }

    pub fn next(&mut self, saying: bool) -> Move {
        let left = self.says.bytes - self.said;
        if saying {
            return Move::Wait(None);
        }
        if left > 0 {
            let length = (1 + self.rng.below(PIECE_BYTES)).min(left);
            let mut piece = vec![0; length as usize];
            content::fill(self.says.number, self.said.into(), &mut piece);
            self.said += length;
            return Move::Say(piece);
        }
        if !std::mem::replace(&mut self.finished, true) {
            return Move::Finish;
        }
        if self.other_finished { Move::Close } else { Move::Wait(None) }
    }
}
