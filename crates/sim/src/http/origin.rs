//! An origin's side of one connection: reads requests strictly, answers as its seed says, well or badly.

use super::edge::{CHECK, Side, TUNNEL_BYTES};
use super::ledger::{SharedLedger, answer_number, body, chunked, is_body};
use super::message::{Head, Piece, Reader};
use super::preface;
use super::tunnel::{Direction, Tunnel};
use fourfold_base::Millis;
use fourfold_base::prng::Prng;
use fourfold_engine::sim::{Ended, Move, Script};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// What all connections of an origin have in common.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// Of a hundred answers, those that are not one.
    pub rough: u32,
    /// Longest time before an answer, and within.
    pub delay_ms: u32,
    /// Longest answer.
    pub bytes_max: u32,
    /// Requests on a connection before it closes without a word.
    pub requests_max: u32,
    /// An idle connection is closed after this.
    pub idle_ms: u32,
}

enum Step {
    Pause(u32),
    Say(Vec<u8>),
    Close,
    Reset,
    /// Never says anything again.
    Hang,
    /// Speaks another protocol: so many bytes up, and down.
    Switch(u32, u32),
}

pub(super) struct Origin {
    ledger: SharedLedger,
    rng: Prng,
    manners: Manners,
    side: Side,
    /// What has come before the PROXY header was whole; `None`: none is due any more.
    greeting: Option<Vec<u8>>,
    client: Option<SocketAddr>,
    /// It is being asked how it is.
    checked: bool,
    /// What the request has to say in another protocol.
    upgrade: Option<u32>,
    tunnel_of: u32,
    tunnel: Option<(u32, Tunnel)>,
    reader: Reader,
    /// The request that is being read, and what has come of it.
    request: Option<(u32, u64, Option<u64>)>,
    head_only: bool,
    /// Before the request was whole.
    answered: bool,
    steps: VecDeque<Step>,
    until: Millis,
    served: u32,
    idle_since: Millis,
    ended: bool,
    /// It answers nothing more.
    lost: bool,
}

impl Origin {
    pub fn new(ledger: SharedLedger, rng: Prng, manners: Manners, side: Side) -> Self {
        Self {
            ledger,
            rng,
            manners,
            side,
            greeting: side.greeted.then(Vec::new),
            client: None,
            checked: false,
            upgrade: None,
            tunnel_of: 0,
            tunnel: None,
            reader: Reader::new(),
            request: None,
            head_only: false,
            answered: false,
            steps: VecDeque::new(),
            until: 0,
            served: 0,
            idle_since: 0,
            ended: false,
            lost: false,
        }
    }

    fn read(&mut self, now: Millis) -> Result<(), String> {
        while let Some(piece) = self.reader.next(Head::request_framing)? {
            match piece {
                Piece::Head(head) => self.on_head(now, &head)?,
                Piece::Data(data) => self.on_data(&data)?,
                Piece::End => self.on_end(),
            }
        }
        Ok(())
    }

    fn on_head(&mut self, now: Millis, head: &Head) -> Result<(), String> {
        if !self.steps.is_empty() {
            return Err("a second request before the first is answered".into());
        }
        if head.line == format!("GET {CHECK} HTTP/1.1") {
            self.checked = true;
            return Ok(());
        }
        let id = head.number("x-id")?.ok_or("a request of nobody's")? as u32;
        if !head.line.contains(&format!(" /{id} ")) {
            return Err(format!("{} for {id}", head.line));
        }
        if self.side.greeted {
            self.ledger.borrow_mut().introduced(id, self.client);
        }
        match self.side.mirror {
            true => self.ledger.borrow_mut().copy(id),
            false => self.ledger.borrow_mut().deliver(now, id),
        }
        self.upgrade = head.number("x-up")?.map(|bytes| bytes as u32);
        self.head_only = head.line.starts_with("HEAD ");
        self.request = Some((id, 0, head.number("x-len")?));
        if head.only("expect")?.is_some() {
            self.steps.push_back(Step::Say(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec()));
        }
        // Some do not wait for the content.
        self.answered = self.rng.chance(self.manners.rough, 400);
        if self.answered {
            self.answer(id);
        }
        Ok(())
    }

    fn on_data(&mut self, data: &[u8]) -> Result<(), String> {
        let Some((id, heard, _)) = &mut self.request else { return Ok(()) };
        if !is_body(*id, *heard, data) {
            return Err(format!("wrong content of {id} from {heard} on"));
        }
        *heard += data.len() as u64;
        Ok(())
    }

    fn on_end(&mut self) {
        if std::mem::take(&mut self.checked) {
            return self.say_how_it_is();
        }
        let Some((id, heard, declared)) = self.request.take() else { return };
        match self.side.mirror {
            true => self.ledger.borrow_mut().copy_whole(id, heard, declared),
            false => self.ledger.borrow_mut().deliver_whole(id, heard, declared),
        }
        if !self.lost && !self.answered {
            self.answer(id);
        }
    }

    fn say_how_it_is(&mut self) {
        self.pause();
        let status = if self.rng.chance(self.manners.rough, 50) { 503 } else { 200 };
        let answer = format!("HTTP/1.1 {status} Sim\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        self.steps.extend([Step::Say(answer.into_bytes()), Step::Close]);
        self.lost = true;
    }

    /// `false`: another protocol is not to be had here, and the request is one like others.
    fn switch(&mut self, id: u32) -> bool {
        let Some(up) = self.upgrade.take().filter(|_| self.rng.chance(3, 4)) else { return false };
        let down = if self.rng.chance(1, 4) { self.rng.below(TUNNEL_BYTES) } else { self.rng.below(3000) };
        let head = format!(
            "HTTP/1.1 101 Sim\r\nConnection: upgrade\r\nUpgrade: sim\r\nx-id: {id}\r\nx-down: {down}\r\n\r\n"
        );
        self.pause();
        self.steps.extend([Step::Say(head.into_bytes()), Step::Switch(up, down)]);
        self.tunnel_of = id;
        true
    }

    fn begin_tunnel(&mut self, up: u32, down: u32) {
        let id = self.tunnel_of;
        if !self.reader.is_between() {
            let rest = self.reader.rest();
            self.ledger.borrow_mut().convict("nothing goes into a tunnel before it is one", rest);
        }
        let says = Direction { number: answer_number(id), bytes: down };
        let tunnel = Tunnel::new(Prng::new(self.rng.next_u64()), says, Direction { number: id, bytes: up });
        self.tunnel = Some((id, tunnel));
    }

    fn judge_tunnel(&self, id: u32, invariant: &'static str, result: Result<(), String>) {
        // Whoever leaves midway says FIN where it likes.
        if let Err(why) = result
            && !self.ledger.borrow().has_quit(id)
        {
            self.ledger.borrow_mut().convict(invariant, why);
        }
    }

    fn pause(&mut self) {
        let pause = self.rng.below(self.manners.delay_ms + 1);
        self.steps.push_back(Step::Pause(pause));
    }

    fn answer(&mut self, id: u32) {
        if self.switch(id) {
            return;
        }
        self.served += 1;
        self.lost = self.served >= self.manners.requests_max;
        self.pause();
        if self.rng.chance(1, 20) {
            self.steps.push_back(Step::Say(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_vec()));
            self.pause();
        }
        if self.rng.chance(self.manners.rough, 100) {
            self.lost = true;
            return self.answer_badly(id);
        }
        let close = self.lost && self.rng.chance(1, 2) || self.rng.chance(1, 20);
        let (head, body, until_close) = self.response(id, close);
        let cut = self.rng.below(body.len() as u32 + 1) as usize;
        let (first, second) = body.split_at_checked(cut).unwrap_or((&body, &[]));
        self.steps.push_back(Step::Say([head.as_slice(), first].concat()));
        if !second.is_empty() {
            self.pause();
            self.steps.push_back(Step::Say(second.to_vec()));
        }
        if close || until_close || self.lost {
            self.lost = true;
            self.steps.push_back(Step::Close);
        }
    }

    /// Head, content, and whether only the end of the connection ends it.
    fn response(&mut self, id: u32, close: bool) -> (Vec<u8>, Vec<u8>, bool) {
        let len = match self.rng.below(10) {
            0 => 0,
            1..9 => self.rng.below(self.manners.bytes_max.min(3000)),
            _ => self.rng.below(self.manners.bytes_max),
        };
        let status = match self.rng.below(20) {
            0 => 204,
            1 => 304,
            2 => 404,
            3 => 500,
            4 => 503,
            _ => 200,
        };
        let bodiless = self.head_only || matches!(status, 204 | 304);
        let len = if status == 204 { 0 } else { len };
        let mut head = format!("HTTP/1.1 {status} Sim\r\nx-id: {id}\r\nx-len: {len}\r\n");
        if self.side.mirror {
            head += "x-mirror: 1\r\n";
        }
        if close {
            head += "Connection: close\r\n";
        }
        let body = body(answer_number(id), len.into());
        let framing = if status == 204 { 3 } else { self.rng.below(if bodiless { 2 } else { 5 }) };
        let body = match framing {
            0 | 2 => {
                head += &format!("Content-Length: {len}\r\n");
                body
            }
            1 | 4 => {
                head += "Transfer-Encoding: chunked\r\n";
                chunked(&body, 1 + self.rng.below(4000) as usize)
            }
            _ => body,
        };
        let body = if bodiless { Vec::new() } else { body };
        (format!("{head}\r\n").into_bytes(), body, framing == 3 && !bodiless)
    }

    fn answer_badly(&mut self, id: u32) {
        let (head, body, until_close) = self.response(id, false);
        let whole = [head, body].concat();
        let half = whole.get(..self.rng.below(whole.len() as u32) as usize).unwrap_or_default().to_vec();
        let garbage: Vec<u8> = (0..1 + self.rng.below(300)).map(|_| self.rng.below(256) as u8).collect();
        match self.rng.below(8) {
            0 => self.steps.push_back(Step::Close),
            1 => self.steps.push_back(Step::Reset),
            // Without a length nobody could tell half from whole.
            2 if !until_close => self.steps.extend([Step::Say(half), Step::Close]),
            2 | 3 => self.steps.extend([Step::Say(half), Step::Reset]),
            4 => self.steps.extend([Step::Say(half), Step::Hang]),
            5 => self.steps.push_back(Step::Hang),
            6 => self.steps.extend([Step::Say(garbage), Step::Close]),
            _ if until_close => self.steps.extend([Step::Say(whole), Step::Reset]),
            // More than its length; a second answer could not be told from that to the next request.
            _ => self.steps.extend([Step::Say([whole, garbage].concat()), Step::Close]),
        }
    }
}

impl Origin {
    /// What follows the PROXY header, if one is due.
    fn greeted(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let Some(greeting) = &mut self.greeting else { return Some(bytes.to_vec()) };
        greeting.extend_from_slice(bytes);
        match preface::read(greeting) {
            Ok(None) => None,
            Ok(Some((used, client))) => {
                self.client = client;
                let rest = greeting.split_off(used);
                self.greeting = None;
                Some(rest)
            }
            Err(why) => {
                self.ledger.borrow_mut().convict("a connection begins with who the client is", why);
                None
            }
        }
    }
}

impl Script for Origin {
    fn hear(&mut self, now: Millis, bytes: &[u8]) {
        if let Some((id, tunnel)) = &mut self.tunnel {
            let (id, result) = (*id, tunnel.hear(bytes));
            return self.judge_tunnel(id, "a tunnel's bytes come as they were said", result);
        }
        let Some(bytes) = self.greeted(bytes) else { return };
        let bytes = bytes.as_slice();
        if self.lost && self.request.is_none() {
            return;
        }
        if let Some((id, ..)) = self.request {
            self.ledger.borrow_mut().moved(now, id);
        }
        self.reader.feed(now, bytes);
        if let Err(why) = self.read(now) {
            self.lost = true;
            self.ledger.borrow_mut().convict("an origin gets one well-formed request after the other", why);
        }
    }

    fn hear_end(&mut self, _now: Millis, how: Ended) {
        let Some((id, tunnel)) = self.tunnel.as_mut().filter(|_| how == Ended::Fin) else {
            self.ended = true;
            return;
        };
        let (id, result) = (*id, tunnel.hear_fin());
        self.judge_tunnel(id, "a tunnel's FIN comes behind its last byte", result);
    }

    fn next(&mut self, now: Millis, saying: bool) -> Move {
        if self.ended {
            return Move::Close;
        }
        if let Some((_, tunnel)) = &mut self.tunnel {
            return tunnel.next(saying);
        }
        if saying {
            return Move::Wait(None);
        }
        while now >= self.until {
            match self.steps.pop_front() {
                Some(Step::Pause(ms)) => self.until = now + u64::from(ms),
                Some(Step::Say(bytes)) if bytes.is_empty() => {}
                Some(Step::Say(bytes)) => {
                    self.idle_since = now;
                    return Move::Say(bytes);
                }
                Some(Step::Switch(up, down)) => {
                    self.begin_tunnel(up, down);
                    return self.next(now, saying);
                }
                Some(Step::Close) => return Move::Close,
                Some(Step::Reset) => return Move::Reset,
                Some(Step::Hang) => {
                    self.steps.clear();
                    self.until = Millis::MAX;
                    return Move::Wait(None);
                }
                None if self.request.is_some() || !self.reader.is_between() => return Move::Wait(None),
                None => {
                    let at = self.idle_since.max(self.reader.fed_at) + u64::from(self.manners.idle_ms);
                    return if now >= at { Move::Close } else { Move::Wait(Some(at)) };
                }
            }
        }
        Move::Wait((self.until < Millis::MAX).then_some(self.until))
    }
}
