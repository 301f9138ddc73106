//! A client: asks one thing after the other, ahead of the answers if it likes, and judges what it hears.

use super::ledger::{Ask, Outcome, SharedLedger, answer_number, is_body};
use super::message::{Head, Piece, Reader};
use super::tunnel::{Direction, Tunnel};
use fourfold_base::Millis;
use fourfold_base::prng::Prng;
use fourfold_engine::sim::{Ended, Move, Script};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// What a client does once it has all answers, or before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    Close,
    /// FIN behind the last request, as `nc -N` and some HTTP/1.0 clients do.
    HalfClose,
    /// Never leaves.
    Stay,
    /// Leaves at a time of its own, by close or reset.
    Leave {
        at: Millis,
        reset: bool,
    },
}

/// What a client comes for.
#[derive(Clone, Debug)]
pub struct Visit {
    pub asks: Vec<Ask>,
    /// Requests sent ahead of their answers.
    pub depth: usize,
    pub think_ms: u64,
    pub ending: Ending,
    /// Longest time that a kilobyte takes to be written.
    pub kilobyte_ms: u64,
    /// It hears the end, and is there to hear it.
    pub listens: bool,
    /// Who it is, as a proxy before us may have said in so many bytes.
    pub address: SocketAddr,
    pub preface: Vec<u8>,
}

impl Visit {
    /// It has more to say than what it asks.
    pub(super) fn speaks_on(&mut self) {
        if self.ending == Ending::HalfClose {
            self.ending = Ending::Close;
        }
    }
}

/// A client that waits for 100 Continue sends its content after this time anyhow (RFC 9110 10.1.1).
const CONTINUE_MS: Millis = 300;

pub(super) struct Client {
    ledger: SharedLedger,
    visit: Visit,
    asks: VecDeque<Ask>,
    unanswered: VecDeque<Ask>,
    /// Waits for 100 Continue, until then.
    content: Option<(Millis, Vec<u8>)>,
    next_at: Millis,
    reader: Reader,
    answer: Answer,
    tunnel: Option<Tunnel>,
    introduced: bool,
    /// The last answer said that nothing follows.
    over: bool,
    ended: bool,
    quits: bool,
    finished: bool,
}

/// What has come of the present answer.
#[derive(Default)]
struct Answer {
    begun: bool,
    status: u16,
    id: Option<u64>,
    len: Option<u64>,
    heard: u64,
    close: bool,
}

impl Client {
    pub fn new(ledger: SharedLedger, visit: Visit) -> Self {
        Self {
            ledger,
            asks: visit.asks.iter().cloned().collect(),
            introduced: !visit.preface.is_empty(),
            visit,
            unanswered: VecDeque::new(),
            content: None,
            next_at: 0,
            reader: Reader::new(),
            answer: Answer::default(),
            tunnel: None,
            over: false,
            ended: false,
            quits: false,
            finished: false,
        }
    }

    fn convict(&self, invariant: &'static str, detail: impl Into<String>) {
        let ids: Vec<u32> = self.unanswered.iter().map(|ask| ask.id).collect();
        self.ledger.borrow_mut().convict(invariant, format!("{} (unanswered: {ids:?})", detail.into()));
    }

    fn ask(&mut self, now: Millis) -> Option<Vec<u8>> {
        let ask = self.asks.pop_front()?;
        let (head, content) = ask.render();
        let mut bytes = std::mem::take(&mut self.visit.preface);
        let preface = bytes.len();
        bytes.extend(head);
        let writing = (bytes.len() + content.len()).div_ceil(1024) as u64 * self.visit.kilobyte_ms;
        self.ledger.borrow_mut().begin(now + writing, &ask, self.visit.listens);
        match ask.expects {
            true => self.content = Some((now + CONTINUE_MS, content)),
            false => bytes.extend(content),
        }
        if let Some(cut) = ask.cut {
            bytes.truncate(preface + cut as usize);
            self.asks.clear();
        }
        self.next_at = now + self.visit.think_ms;
        self.unanswered.push_back(ask);
        Some(bytes)
    }

    fn on_head(&mut self, now: Millis, head: &Head) -> Result<(), String> {
        let status = head.status()?;
        let Some(ask) = self.unanswered.front() else { return Ok(()) };
        if let (101, Some(bytes)) = (status, ask.upgrade) {
            let id = ask.id;
            let down = head.number("x-down")?.ok_or("a 101 of nobody's")? as u32;
            let says = Direction { number: id, bytes };
            let hears = Direction { number: answer_number(id), bytes: down };
            self.tunnel = Some(Tunnel::new(Prng::new(id.into()), says, hears));
            self.unanswered.pop_front();
            self.ledger.borrow_mut().end(now, id, Outcome::Answered(status));
            return Ok(());
        }
        if status == 101 {
            return Err("a 101 that nobody asked for".into());
        }
        if status < 200 {
            if !ask.modern {
                self.convict("a client of HTTP/1.0 gets no 1xx", head.line.clone());
            }
            if let (100, Some((at, _))) = (status, &mut self.content) {
                *at = now;
            }
            return Ok(());
        }
        let (id, len) = (head.number("x-id")?, head.number("x-len")?);
        if head.only("x-mirror")?.is_some() {
            self.convict("a mirror's answer reaches nobody", format!("{head:?} for {ask:?}"));
        }
        self.answer = Answer { begun: true, status, id, len, heard: 0, close: head.says_close() };
        match id {
            Some(id) if id != u64::from(ask.id) => {
                self.convict("answers come in the order of requests", format!("{head:?} for {ask:?}"));
            }
            None if status < 400 => {
                self.convict("only errors are of the proxy's own making", format!("{head:?}"));
            }
            _ => {}
        }
        Ok(())
    }

    fn on_data(&mut self, bytes: &[u8]) {
        let Some(ask) = self.unanswered.front() else { return };
        if self.answer.id.is_some() && !is_body(answer_number(ask.id), self.answer.heard, bytes) {
            self.convict("the content of an answer is what its origin said", format!("{ask:?}"));
        }
        self.answer.heard += bytes.len() as u64;
    }

    fn on_end(&mut self, now: Millis) {
        if !std::mem::take(&mut self.answer.begun) {
            return;
        }
        let Some(ask) = self.unanswered.pop_front() else { return };
        let Answer { status, id, len, heard, close, .. } = self.answer;
        let bodiless = ask.method == "HEAD" || matches!(status, 204 | 304);
        if id.is_some() && len != Some(heard) && !bodiless {
            self.convict("half an answer never looks whole", format!("{heard} of {len:?}: {ask:?}"));
        }
        let outcome = if id.is_some() { Outcome::Answered(status) } else { Outcome::Refused(status) };
        self.ledger.borrow_mut().end(now, ask.id, outcome);
        self.over |= close;
        self.next_at = now + self.visit.think_ms;
        // Whoever was answered before its content was asked for keeps it, and has nothing more to say.
        self.quits |= ask.expects && self.content.take().is_some();
    }

    fn read(&mut self, now: Millis) {
        loop {
            if self.over && !self.reader.is_between() {
                let rest = format!("{} behind {:?}", self.reader.rest(), self.visit);
                return self.convict("nothing follows the last answer", rest);
            }
            if self.unanswered.is_empty() && !self.reader.is_between() {
                return self.convict("every answer has been asked for", self.reader.rest());
            }
            let Some(ask) = self.unanswered.front() else { return };
            let (head_only, chunks) = (ask.method == "HEAD", ask.modern);
            // Whoever times out on half a head cannot know that it is one of HEAD, and who has given up waiting for a PROXY
            // header takes it for a broken one.
            let late = self.introduced;
            let blind = move |head: &Head| match head.status() {
                Ok(400) => late,
                status => status == Ok(408),
            };
            let head_only = |head: &Head| head_only && !blind(head);
            let piece = self.reader.next(|head| head.response_framing(head_only(head), chunks));
            let result = match piece {
                Ok(None) => return,
                Ok(Some(Piece::Head(head))) => self.on_head(now, &head),
                Ok(Some(Piece::Data(data))) => {
                    self.on_data(&data);
                    Ok(())
                }
                Ok(Some(Piece::End)) => {
                    self.on_end(now);
                    Ok(())
                }
                Err(why) => Err(why),
            };
            if let Err(why) = result {
                return self.convict("every answer is well formed", why);
            }
            if self.tunnel.is_some() {
                let rest = self.reader.take_rest();
                return self.hear_through(&rest);
            }
        }
    }

    fn hear_through(&mut self, bytes: &[u8]) {
        if let Some(Err(why)) = self.tunnel.as_mut().map(|tunnel| tunnel.hear(bytes)) {
            self.convict("a tunnel's bytes come as they were said", why);
        }
    }

    /// What is not answered now never will be.
    fn give_up(&mut self, now: Millis, outcome: Outcome) {
        for ask in self.unanswered.drain(..) {
            self.ledger.borrow_mut().end(now, ask.id, outcome);
        }
    }

    fn leave(&mut self, now: Millis, how: Move) -> Move {
        if let Some(last) = self.visit.asks.last().filter(|_| self.tunnel.is_some()) {
            self.ledger.borrow_mut().quit(last.id);
        }
        self.give_up(now, Outcome::Left);
        self.ended = true;
        how
    }
}

impl Script for Client {
    fn hear(&mut self, now: Millis, bytes: &[u8]) {
        if let Some(ask) = self.unanswered.front() {
            self.ledger.borrow_mut().moved(now, ask.id);
        }
        if self.tunnel.is_some() {
            return self.hear_through(bytes);
        }
        self.reader.feed(now, bytes);
        if self.ledger.borrow().broken.is_empty() {
            self.read(now);
        }
    }

    fn hear_end(&mut self, now: Millis, how: Ended) {
        if let Some(tunnel) = self.tunnel.as_mut().filter(|_| how == Ended::Fin) {
            if let Err(why) = tunnel.hear_fin() {
                self.convict("a tunnel's FIN comes behind its last byte", why);
            }
            return;
        }
        if how == Ended::Fin && self.reader.end() {
            self.on_end(now);
        }
        self.give_up(now, Outcome::Cut);
        self.ended = true;
    }

    fn next(&mut self, now: Millis, saying: bool) -> Move {
        if self.ended {
            return Move::Close;
        }
        if self.quits {
            return self.leave(now, Move::Close);
        }
        let leaves_at = match self.visit.ending {
            Ending::Leave { at, reset } if now >= at => {
                return self.leave(now, if reset { Move::Reset } else { Move::Close });
            }
            Ending::Leave { at, .. } => Some(at),
            _ => None,
        };
        if let Some(tunnel) = &mut self.tunnel {
            return match tunnel.next(saying) {
                Move::Wait(None) => Move::Wait(leaves_at),
                step => step,
            };
        }
        if saying || self.over || self.finished {
            return Move::Wait(leaves_at);
        }
        if let Some((_, content)) = self.content.take_if(|(at, _)| *at <= now) {
            return if content.is_empty() { Move::Wait(leaves_at) } else { Move::Say(content) };
        }
        if let Some((at, _)) = &self.content {
            return Move::Wait(Some(leaves_at.map_or(*at, |leaves| leaves.min(*at))));
        }
        let stalled = self.unanswered.back().is_some_and(|ask| ask.cut.is_some());
        if self.unanswered.len() < self.visit.depth && !self.asks.is_empty() && !stalled {
            if now < self.next_at {
                return Move::Wait(Some(leaves_at.map_or(self.next_at, |leaves| leaves.min(self.next_at))));
            }
            return self.ask(now).map_or(Move::Wait(leaves_at), Move::Say);
        }
        match self.visit.ending {
            Ending::HalfClose if self.asks.is_empty() && !stalled => {
                self.finished = true;
                Move::Finish
            }
            Ending::Close if self.asks.is_empty() && self.unanswered.is_empty() => {
                self.leave(now, Move::Close)
            }
            _ => Move::Wait(leaves_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Content;
    use crate::http::ledger::body;

    fn ask(id: u32, method: &'static str, modern: bool) -> Ask {
        let content = Content::None;
        Ask {
            id,
            method,
            content,
            modern,
            close: false,
            expects: false,
            padding: 0,
            cut: None,
            upgrade: None,
        }
    }

    /// What a client that has asked twice says to these bytes, and to the FIN behind them.
    fn verdict(modern: bool, bytes: &[u8]) -> Vec<&'static str> {
        let ledger = SharedLedger::default();
        let asks = vec![ask(1, "GET", true), ask(2, "GET", modern)];
        let visit = Visit {
            asks,
            depth: 2,
            think_ms: 0,
            ending: Ending::Stay,
            kilobyte_ms: 0,
            listens: true,
            address: "192.0.2.1:2000".parse().unwrap(),
            preface: Vec::new(),
        };
        let mut client = Client::new(ledger.clone(), visit);
        assert!(
            matches!(client.next(5, false), Move::Say(_)) && matches!(client.next(5, false), Move::Say(_))
        );
        bytes.chunks(100).for_each(|part| client.hear(6, part));
        client.hear_end(7, Ended::Fin);
        assert!(ledger.borrow().exchanges.values().all(|exchange| exchange.outcome.is_some()));
        ledger.borrow().broken.iter().map(|broken| broken.0).collect()
    }

    fn answer(id: u32, len: usize, extra: &str) -> Vec<u8> {
        let head = format!("HTTP/1.1 200 OK\r\nx-id: {id}\r\nx-len: {len}\r\n{extra}\r\n");
        [head.as_bytes(), &body(answer_number(id), len as u64)].concat()
    }

    #[test]
    fn two_answers_in_order_are_well() {
        let [first, second] = [1, 2].map(|id| answer(id, 700, "Content-Length: 700\r\n"));
        assert_eq!(verdict(true, &[first.clone(), second].concat()), [""; 0]);
        let own = b"HTTP/1.1 503 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
        assert_eq!(verdict(true, &[&first, own.as_slice()].concat()), [""; 0]);
        assert_eq!(verdict(true, &[first, answer(2, 900, "")].concat()), [""; 0], "until close");
        assert_eq!(verdict(true, &answer(1, 900, "Content-Length: 900\r\n")[..500]), [""; 0], "cut");
    }

    #[test]
    fn every_breach_is_seen() {
        let length = |id, len| answer(id, len, &format!("Content-Length: {len}\r\n"));
        let [first, second] = [1, 2].map(|id| length(id, 700));
        let closing = answer(1, 3, "Content-Length: 3\r\nConnection: close\r\n");
        let early = b"HTTP/1.1 103 Hints\r\n\r\n".to_vec();
        let chunked = answer(2, 0, "Transfer-Encoding: chunked\r\n");
        let shorter = [length(1, 0).as_slice(), &answer(2, 900, "")[..500]].concat();
        let mut wrong = first.clone();
        wrong[400] ^= 1;
        for (modern, bytes, invariant) in [
            (true, [second.clone(), first.clone()].concat(), "answers come in the order of requests"),
            (true, [first.clone(), second.clone(), second].concat(), "every answer has been asked for"),
            (true, [closing, first.clone()].concat(), "nothing follows the last answer"),
            (true, wrong, "the content of an answer is what its origin said"),
            (true, shorter, "half an answer never looks whole"),
            (
                true,
                b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(),
                "only errors are of the proxy's own making",
            ),
            (false, [first.clone(), early].concat(), "a client of HTTP/1.0 gets no 1xx"),
            (false, [first, chunked].concat(), "every answer is well formed"),
        ] {
            assert_eq!(verdict(modern, &bytes).first(), Some(&invariant));
        }
    }
}
