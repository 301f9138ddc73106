use super::*;
use crate::net::{App, Event};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

const SERVER: ([u8; 4], u16) = ([10, 0, 1, 1], 9000);

/// Servers that answer as told.
struct World {
    answers: Vec<Answer>,
    accept_errors: u32,
    /// What servers that speak hear; without it they do not speak.
    heard: Option<Heard>,
}

type Heard = Rc<RefCell<Vec<(Vec<u8>, Option<Ended>)>>>;

impl Director for World {
    fn connect(&mut self, rng: &mut Prng, _attempt: &Attempt) -> Answer {
        self.answers[rng.below(self.answers.len() as u32) as usize].clone()
    }
    fn script(&mut self, _rng: &mut Prng, _attempt: &Attempt) -> Option<Box<dyn Script>> {
        let heard = self.heard.as_ref()?;
        Some(Box::new(Echo::new(heard)))
    }
    fn accept_error(&mut self, _rng: &mut Prng, _now: Millis) -> Option<Errno> {
        self.accept_errors = self.accept_errors.checked_sub(1)?;
        Some(Errno::EMFILE)
    }
}

#[derive(Default)]
struct Pair {
    socks: [Option<Sock>; 2],
    ended: [bool; 2],
    finished: [bool; 2],
    open: usize,
}

/// The smallest honest tunnel.
#[derive(Default)]
struct Relay {
    pairs: HashMap<u64, Pair>,
    next: u64,
    next_port: u16,
    failures: Vec<(Step, Errno)>,
    accept_again: Option<Millis>,
    never_pause: bool,
}

impl Relay {
    fn sock(&self, owner: u64) -> Option<Sock> {
        self.pairs.get(&(owner / 2))?.socks[owner as usize % 2]
    }

    fn close_both<N: Net>(&mut self, net: &mut N, owner: u64, how: Close) {
        let Some(pair) = self.pairs.get_mut(&(owner / 2)) else { return };
        for sock in &mut pair.socks {
            if let Some(sock) = sock.take() {
                net.close(sock, how);
            }
        }
    }

    fn end<N: Net>(&mut self, net: &mut N, owner: u64) {
        let pair = &self.pairs[&(owner / 2)];
        if pair.ended == [true; 2] && pair.finished == [true; 2] {
            self.close_both(net, owner, Close::Orderly);
        }
    }
}

impl<N: Net> Handler<N> for Relay {
    fn on_event(&mut self, net: &mut N, event: Event) {
        match event {
            Event::Accepted { sock, .. } => {
                let id = self.next;
                self.next += 1;
                self.next_port += 1;
                net.adopt(sock, id * 2);
                let local = Local::Late { ip: None, port: 30_000 + self.next_port };
                let server = net.connect(&SERVER.into(), local, id * 2 + 1);
                let mut pair = Pair { socks: [Some(sock), server.ok()], open: 1, ..Pair::default() };
                pair.open += usize::from(server.is_ok());
                self.pairs.insert(id, pair);
                if let Err(refused) = server {
                    self.failures.push((refused.step, refused.errno));
                    self.close_both(net, id * 2, Close::Reset);
                }
            }
            Event::AcceptFailed { .. } => self.accept_again = Some(net.now() + 100),
            Event::Connected { sock, owner } => {
                net.receive(sock);
                self.sock(owner ^ 1).into_iter().for_each(|client| net.receive(client));
            }
            Event::ConnectFailed { owner, step, errno, .. } => {
                self.failures.push((step, errno));
                self.close_both(net, owner, Close::Reset);
            }
            Event::Received { sock, owner, buf } => match self.sock(owner ^ 1) {
                Some(other) if net.send(other, buf) == Pressure::Room || self.never_pause => {}
                Some(_) => net.pause(sock),
                None => panic!("bytes for {owner} after close"),
            },
            Event::Unspliced { .. } => {}
            Event::Drained { owner, .. } => {
                self.sock(owner ^ 1).into_iter().for_each(|other| net.receive(other))
            }
            Event::Eof { owner, .. } => {
                self.pairs.get_mut(&(owner / 2)).unwrap().ended[owner as usize % 2] = true;
                self.sock(owner ^ 1).into_iter().for_each(|other| net.finish(other));
                self.end(net, owner);
            }
            Event::Finished { owner, .. } => {
                self.pairs.get_mut(&(owner / 2)).unwrap().finished[owner as usize % 2] = true;
                self.end(net, owner);
            }
            Event::Failed { owner, .. } => self.close_both(net, owner, Close::Reset),
            Event::Closed { owner } => {
                let pair = self.pairs.get_mut(&(owner / 2)).expect("closed twice");
                pair.open -= 1;
                if pair.open == 0 {
                    self.pairs.remove(&(owner / 2));
                }
            }
        }
    }
}

impl<N: Net> App<N> for Relay {
    type Mail = ();
    fn start(&mut self, net: &mut N) {
        net.accept(ListenerId(0));
    }
    fn on_mail(&mut self, _net: &mut N, _mail: ()) {}
    fn on_turn(&mut self, net: &mut N) {
        if self.accept_again.take_if(|at| *at <= net.now()).is_some() {
            net.accept(ListenerId(0));
        }
    }
    fn poll_timeout(&self) -> Option<Millis> {
        self.accept_again
    }
    fn is_finished(&self) -> bool {
        false
    }
}

fn net(config: SimConfig, answers: Vec<Answer>) -> SimNet {
    SimNet::new(config, Machine::new(1000, true), Box::new(World { answers, accept_errors: 2, heard: None }))
}

fn works(behaviour: Behaviour) -> Answer {
    Answer { after: 3, outcome: Ok(behaviour) }
}

/// Until nothing can happen any more.
fn run(net: &mut SimNet, relay: &mut Relay) {
    App::start(relay, net);
    for _ in 0..100_000 {
        let deadline = App::<SimNet>::poll_timeout(relay);
        if net.next_event().is_none() && deadline.is_none() {
            return;
        }
        net.turn(deadline, relay).unwrap();
        relay.on_turn(net);
    }
    let tail: Vec<&str> = net.trace().collect();
    panic!("the world does not come to rest at {}: {:#?}", net.now(), tail);
}

fn client(n: usize) -> SocketAddr {
    ([192, 0, 2, 1], 1000 + n as u16).into()
}

fn any_behaviour(rng: &mut Prng) -> Behaviour {
    let ends = [End::Finish, End::FinishAfterEof, End::Close, End::Reset];
    Behaviour {
        send_bytes: [0, 8, 900, 40_000, 300_000][rng.below(5) as usize],
        write_max: 1 << (8 + rng.below(8)),
        write_gap_ms: rng.below(3),
        end: ends[rng.below(4) as usize],
        read_max: 1 << (8 + rng.below(12)),
        read_gap_ms: rng.below(3),
        window: 1 << (9 + rng.below(9)),
        break_after: rng.chance(1, 8).then(|| (u64::from(rng.below(50)), Break::Reset)),
        ..Behaviour::default()
    }
}

fn both(test: impl Fn(Style, u64)) {
    for seed in 0..60 {
        for style in [Style::Readiness, Style::Completion] {
            test(style, seed);
        }
    }
}

#[test]
fn streams_arrive_whole_and_in_order_through_a_tunnel() {
    both(|style, seed| {
        let mut rng = Prng::new(seed);
        let polite = |rng: &mut Prng| Behaviour {
            break_after: None,
            end: if rng.chance(1, 2) { End::Finish } else { End::FinishAfterEof },
            ..any_behaviour(rng)
        };
        // Two that wait for each other's FIN would wait for ever.
        let server = Behaviour { end: End::Finish, ..polite(&mut rng) };
        let config = SimConfig { trace: 40, ..SimConfig::new(seed, style) };
        let mut net = net(config, vec![works(server.clone())]);
        for n in 0..20 {
            net.add_client(ListenerId(0), client(n), rng.below(100).into(), polite(&mut rng));
        }
        let mut relay = Relay::default();
        run(&mut net, &mut relay);
        assert_eq!(net.take_violations(), [""; 0], "seed {seed} {style:?}");
        assert!(relay.pairs.is_empty(), "seed {seed} {style:?}");
        let streams: HashMap<u32, &Connection> = net.connections().iter().map(|c| (c.stream, c)).collect();
        for conn in net.connections() {
            assert!(conn.peer_eof && !conn.peer_reset, "seed {seed} {style:?} {conn:?}");
            if let Some(stream) = conn.reader.stream() {
                assert_eq!(conn.read, streams[&stream].behaviour.send_bytes, "seed {seed} {style:?}");
            }
        }
        let (stats, sim) = (net.stats(), net.sim_stats());
        assert_eq!((stats.sockets, stats.buffers_in_use, sim.stale_operations), (0, 0, 0), "seed {seed}");
        assert!(sim.idle_turns_max < 5, "seed {seed} {style:?}: {sim:?}");
        assert_eq!(net.machine.borrow().live(), 0);
    });
}

#[test]
fn any_world_comes_to_rest_with_nothing_leaked() {
    both(|style, seed| {
        let mut rng = Prng::new(seed);
        let mut answers: Vec<Answer> = (0..3).map(|_| works(any_behaviour(&mut rng))).collect();
        for (after, step, errno) in [
            (1, Step::Connect, Errno::ECONNREFUSED),
            (0, Step::Bind, Errno::EADDRNOTAVAIL),
            (127_000, Step::Connect, Errno::ETIMEDOUT),
        ] {
            answers.push(Answer { after, outcome: Err((step, errno)) });
        }
        let config = SimConfig { buffers_max: 6, trace: 40, ..SimConfig::new(seed, style) };
        let mut net = net(config, answers);
        for n in 0..40 {
            net.add_client(ListenerId(0), client(n), rng.below(300).into(), any_behaviour(&mut rng));
        }
        let mut relay = Relay::default();
        run(&mut net, &mut relay);
        assert_eq!(net.take_violations(), [""; 0], "seed {seed} {style:?}");
        for conn in net.connections() {
            let clean = conn.reader.stream().is_none() || !conn.peer_eof || conn.peer_reset;
            let source = net.connections().iter().find(|c| Some(c.stream) == conn.reader.stream());
            assert!(clean || source.is_some_and(|s| s.fin && s.written == conn.read), "seed {seed} {conn:?}");
        }
        assert!(net.stats().buffers_in_use <= 6);
    });
}

#[test]
fn the_same_seed_is_the_same_run() {
    let traces = [0, 1].map(|_| {
        let config = SimConfig { trace: 10_000, ..SimConfig::new(5, Style::Completion) };
        let mut net = net(config, vec![works(any_behaviour(&mut Prng::new(1)))]);
        for n in 0..10 {
            net.add_client(ListenerId(0), client(n), n as u64, any_behaviour(&mut Prng::new(n as u64)));
        }
        run(&mut net, &mut Relay::default());
        net.trace().map(String::from).collect::<Vec<_>>()
    });
    assert!(traces[0].len() > 50);
    assert_eq!(traces[0], traces[1]);
}

#[test]
fn a_slow_reader_fills_the_queue_and_pressure_bounds_it() {
    both(|style, seed| {
        let server = Behaviour { read_stop: Some(1000), window: 4096, ..Behaviour::default() };
        let mut peak = 0;
        let mut net = net(SimConfig::new(seed, style), vec![works(server)]);
        let greedy = Behaviour { send_bytes: 2_000_000, ..Behaviour::default() };
        net.add_client(ListenerId(0), client(0), 0, greedy);
        let mut relay = Relay::default();
        App::start(&mut relay, &mut net);
        while net.next_event().is_some() || relay.accept_again.is_some() {
            net.turn(relay.accept_again, &mut relay).unwrap();
            relay.on_turn(&mut net);
            let unsent = relay.sock(1).map_or(0, |sock| net.unsent(sock));
            peak = peak.max(unsent);
        }
        assert!(peak + 4096 >= SEND_QUEUE_HIGH, "seed {seed} {style:?}: {peak}");
        assert!(peak < SEND_QUEUE_HIGH + 8 * fourfold_sys::buffers::BUFFER_BYTES, "seed {seed} {style:?}");
        let client = &net.connections()[0];
        assert!(client.written < 2_000_000 && client.available() > 0, "the client is held back too");
    });
}

#[test]
fn a_stale_socket_does_nothing_and_is_counted() {
    let mut net = net(SimConfig::new(1, Style::Completion), vec![works(Behaviour::default())]);
    let sock = net.connect(&SERVER.into(), Local::Kernel, 7).unwrap();
    net.close(sock, Close::Reset);
    net.close(sock, Close::Orderly);
    net.receive(sock);
    net.receive(Sock::NONE);
    let buf = net.alloc().unwrap();
    assert_eq!(net.send(sock, buf), Pressure::Room);
    assert_eq!((net.sim_stats().stale_operations, net.stats().buffers_in_use), (3, 0));
    struct Count(u32);
    impl Handler<SimNet> for Count {
        fn on_event(&mut self, _net: &mut SimNet, event: Event) {
            assert!(matches!(event, Event::Closed { owner: 7 }), "{event:?}");
            self.0 += 1;
        }
    }
    let mut count = Count(0);
    while net.next_event().is_some() {
        net.turn(None, &mut count).unwrap();
    }
    assert_eq!(count.0, 1);
    assert_eq!(net.machine.borrow().live(), 0);
}

#[test]
fn a_tuple_taken_twice_is_a_violation_and_one_in_time_wait_is_refused() {
    for style in [Style::Readiness, Style::Completion] {
        let mut net = net(SimConfig::new(1, style), vec![works(Behaviour::default())]);
        let local = Local::Late { ip: None, port: 4000 };
        let mut relay = Relay::default();
        let first = net.connect(&SERVER.into(), local, 1).unwrap();
        let second = net.connect(&SERVER.into(), local, 3);
        assert_eq!(second.is_err(), style == Style::Readiness);
        assert!(net.machine.borrow_mut().take_violations()[0].contains("twice"), "{style:?}");
        relay.pairs.insert(0, Pair { socks: [None, Some(first)], open: 1, ..Pair::default() });
        relay.pairs.insert(1, Pair { socks: [None, second.ok()], open: 1, ..Pair::default() });
        while net.connections()[0].made_at.is_none() {
            net.turn(None, &mut relay).unwrap();
        }
        relay.close_both(&mut net, 1, Close::Orderly);
        while net.next_event().is_some() {
            net.turn(None, &mut relay).unwrap();
        }
        assert_eq!(net.machine.borrow().live(), 0, "{style:?}");
        let _ = net.connect(&SERVER.into(), local, 5);
        assert!(net.machine.borrow_mut().take_violations()[0].contains("too early"), "{style:?}");
    }
}

#[test]
fn time_waits_for_the_deadline_when_nothing_happens() {
    let mut net = net(SimConfig::new(1, Style::Readiness), Vec::new());
    let mut relay = Relay::default();
    net.turn(Some(250), &mut relay).unwrap();
    assert_eq!(net.now(), 250);
    net.add_client(ListenerId(0), client(0), 400, Behaviour::default());
    net.turn(Some(1000), &mut relay).unwrap();
    assert_eq!((net.now(), net.backlog()), (400, 1));
    net.turn(Some(100), &mut relay).unwrap();
    assert_eq!(net.now(), 400, "never backwards");
    net.close_listener(ListenerId(0));
    assert!(net.connections()[0].peer_reset);
}

/// Says back what it hears, and ends when its peer does.
struct Echo {
    heard: Heard,
    index: usize,
    said: usize,
}

impl Echo {
    fn new(heard: &Heard) -> Self {
        heard.borrow_mut().push((Vec::new(), None));
        Self { heard: Rc::clone(heard), index: heard.borrow().len() - 1, said: 0 }
    }
}

impl Script for Echo {
    fn hear(&mut self, _now: Millis, bytes: &[u8]) {
        self.heard.borrow_mut()[self.index].0.extend_from_slice(bytes);
    }
    fn hear_end(&mut self, _now: Millis, how: Ended) {
        self.heard.borrow_mut()[self.index].1 = Some(how);
    }
    fn next(&mut self, _now: Millis, saying: bool) -> Move {
        let heard = self.heard.borrow();
        let (bytes, end) = &heard[self.index];
        match bytes.get(self.said..).filter(|new| !new.is_empty()) {
            _ if saying => Move::Wait(None),
            Some(new) => {
                self.said = bytes.len();
                Move::Say(new.to_vec())
            }
            None if end.is_some() => Move::Close,
            None => Move::Wait(None),
        }
    }
}

/// Says its lines, each once the one before has come back and ten milliseconds have passed.
struct Speaker {
    lines: Vec<Vec<u8>>,
    last: Move,
    missing: usize,
    next_at: Millis,
    heard: Heard,
}

impl Script for Speaker {
    fn hear(&mut self, now: Millis, bytes: &[u8]) {
        self.missing -= bytes.len();
        self.next_at = now + 10;
        self.heard.borrow_mut()[0].0.extend_from_slice(bytes);
    }
    fn hear_end(&mut self, _now: Millis, how: Ended) {
        self.heard.borrow_mut()[0].1 = Some(how);
    }
    fn next(&mut self, now: Millis, saying: bool) -> Move {
        if saying || self.missing > 0 {
            return Move::Wait(None);
        }
        if now < self.next_at {
            return Move::Wait(Some(self.next_at));
        }
        match self.lines.pop() {
            Some(line) => {
                self.missing = line.len();
                Move::Say(line)
            }
            None => self.last.clone(),
        }
    }
}

/// A speaker's lines are heard at the other end and come back, in any pieces.
#[test]
fn peers_that_speak_answer_each_other_through_a_tunnel() {
    both(|style, seed| {
        let mut rng = Prng::new(seed);
        let lines: Vec<Vec<u8>> = (0..5u8).map(|n| vec![n; 1 + rng.below(60_000) as usize]).collect();
        let said: Vec<u8> = lines.iter().rev().flatten().copied().collect();
        let (heard, came_back) = (Heard::default(), Heard::default());
        came_back.borrow_mut().push((Vec::new(), None));
        let ends = [(Move::Finish, Ended::Fin), (Move::Reset, Ended::Reset)];
        let (last, end) = ends[seed as usize % 2].clone();
        let script = Speaker { lines, last, missing: 0, next_at: 0, heard: came_back.clone() };
        let slow = |rng: &mut Prng| Behaviour { break_after: None, ..any_behaviour(rng) };
        let world =
            World { answers: vec![works(slow(&mut rng))], accept_errors: 0, heard: Some(heard.clone()) };
        let mut net = SimNet::new(SimConfig::new(seed, style), Machine::new(1000, true), Box::new(world));
        net.add_speaker(ListenerId(0), client(0), 5, slow(&mut rng), Box::new(script));
        run(&mut net, &mut Relay::default());
        assert_eq!(*heard.borrow(), [(said.clone(), Some(end))], "seed {seed} {style:?}");
        assert!(came_back.borrow()[0].0 == said, "seed {seed} {style:?}");
        let stats = net.stats();
        assert_eq!((stats.sockets, stats.buffers_in_use), (0, 0), "seed {seed} {style:?}");
    });
}
