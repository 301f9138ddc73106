//! A request's place at a server: taken with the choice of the server, told how it went once, and left.

use super::Http;
use super::key::set_cookie;
use super::reply::Reason;
use crate::core::Cx;
use crate::health::Answerer;
use fourfold_balance::health::Outcome;
use fourfold_base::slab::Key;
use fourfold_engine::Net;

#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub who: Answerer,
    pub told: Told,
}

/// What those who judge the server know of the request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Told {
    Nothing,
    /// A good answer has begun.
    Begun,
    Everything,
}

impl Http {
    pub(super) fn take_place(&mut self, key: Key, server: u32, source: u64) {
        if let Some(exchange) = self.exchanges.get_mut(key) {
            let who = Answerer { pool: usize::from(exchange.pool), server: server as usize, source };
            exchange.place = Some(Place { who, told: Told::Nothing });
        }
    }

    /// A place at the server of a connection that nobody else may use. `false`: the server is not to be used now.
    pub(super) fn enter<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, conn: Key) -> bool {
        let Some(conn) = self.conns.get(conn) else { return false };
        let (pool, server, source) = (usize::from(conn.pool), conn.server, conn.lease.source_index());
        let entered = cx.core.upstreams.enter(pool, server as usize, cx.net.now());
        if entered {
            self.take_place(key, server, source);
        }
        entered
    }

    /// The one place where servers are judged by their answers.
    pub(super) fn tell<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key, outcome: Outcome) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let answered = if exchange.answered { exchange.answered_us } else { cx.net.micros() };
        let latency_us = answered.saturating_sub(exchange.open_us);
        let Some(place) = exchange.place.as_mut() else { return };
        let outcome = match (place.told, outcome) {
            (Told::Everything, _) | (Told::Begun, Outcome::Answering) => return,
            (Told::Nothing, outcome) => outcome,
            // Whoever listened no longer does: it was good until then.
            (Told::Begun, Outcome::Success | Outcome::Shortage) => Outcome::Answered,
            (Told::Begun, _) => Outcome::Broken,
        };
        place.told = if outcome == Outcome::Answering { Told::Begun } else { Told::Everything };
        let who = place.who;
        cx.core.report(who, outcome, latency_us, cx.net.now());
    }

    /// The request goes elsewhere, or has come to its end.
    pub(super) fn leave_place<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) {
        if let Some(who) = self.give_place_up(cx, key)
            && cx.core.upstreams.limits_requests(who.pool, who.server)
        {
            cx.core.freed(who.pool);
        }
    }

    /// The same for one that was taken in vain: nobody waits for that.
    pub(super) fn give_place_up<N: Net>(&mut self, cx: &mut Cx<'_, N>, key: Key) -> Option<Answerer> {
        // Who leaves without a word has learnt nothing about the server.
        self.tell(cx, key, Outcome::Shortage);
        let Place { who, .. } = self.exchanges.get_mut(key)?.place.take()?;
        cx.core.upstreams.vacate(who.pool, who.server);
        Some(who)
    }

    /// The cookie that keeps the client at the server that answers, unless it has a good one.
    pub(super) fn stick<N: Net>(&mut self, cx: &Cx<'_, N>, key: Key) {
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let (Some(place), shared) = (exchange.place, &cx.core.shared) else { return };
        let who = place.who;
        let (Some(plan), Some(state)) = (shared.plan.pools.get(who.pool), shared.pools.get(who.pool)) else {
            return;
        };
        let Some(sticky) = &plan.sticky else { return };
        // One that is full for the moment is gone back to.
        let keeps = |own: u32| own as usize == who.server || state.is_fit(plan, own as usize, cx.net.now());
        if exchange.stay.is_some_and(keeps) {
            return;
        }
        if let Some(server) = state.picker.servers().get(who.server) {
            set_cookie(sticky, server.id, state.salt, &mut exchange.response_fields);
        }
    }
}

/// What a failure says about the server.
pub(super) fn outcome_of(reason: Reason) -> Outcome {
    match reason {
        Reason::BadResponse(_) => Outcome::ServerError,
        Reason::ServerClosed | Reason::ServerReset | Reason::ResponseTimeout => Outcome::NoAnswer,
        _ => Outcome::Shortage,
    }
}
