//! What a request's head asks for, and what is done about it.
//!
//! Owns no state of its own: everything that is kept of a head is copied here, since its buffer goes on to the next bytes.
//! Refuses what no route takes, what a limit forbids, and what has more than one reading.

use super::Http;
use super::Settings;
use super::exchange::Begun;
use super::head::{self, Onward, Who};
use super::key::{key_of, stuck_to};
use super::reply::{self, Reason, To};
use crate::core::Core;
use fourfold_base::slab::Key;
use fourfold_config::http::{Action, Route};
use fourfold_http::h1::{self, Body, Method};
use fourfold_l4::rate::RetryAfter;
use std::net::SocketAddr;

/// What becomes of a request whose head was read.
pub(super) enum Verdict {
    Forward(Box<Begun>),
    /// The answer lies in `out`. The connection ends with it, or goes on.
    Answered {
        status: u16,
        close: bool,
    },
}

/// A request that was understood, is allowed, and has a route.
struct Admitted {
    to: To,
    who: Who,
    keep_alive: bool,
    route: usize,
    /// The path as it is understood lies in `Http::path`, not in the head.
    rewritten: bool,
}

impl Http {
    pub(super) fn judge_request(
        &mut self,
        core: &Core,
        key: Key,
        settings: &Settings,
        head: &[u8],
        now_us: u64,
    ) -> Result<Verdict, (Reason, To)> {
        let parsed = self.request.parse(head, &settings.limits);
        self.heard = self.heard.take().map(|facts| match parsed {
            Ok(()) => facts.understood(&self.request, head),
            Err(_) => facts.garbled(head),
        });
        parsed.map_err(|reject| (Reason::Rejected(reject), To::stranger(head)))?;
        let admitted = self.admit(core, key, settings, head, now_us)?;
        let listener = self.clients.get(key).map_or(0, |client| client.listener);
        self.answer_or_forward(core, listener, settings, head, admitted)
    }

    fn admit(
        &mut self,
        core: &Core,
        key: Key,
        settings: &Settings,
        head: &[u8],
        now_us: u64,
    ) -> Result<Admitted, (Reason, To)> {
        let Some(client) = self.clients.get_mut(key) else { return Err((Reason::Local, To::STRANGER)) };
        let request = &self.request;
        let last = settings.requests_max > 0 && u64::from(client.requests) >= settings.requests_max;
        let keep_alive = request.keep_alive && !last && !core.draining;
        let has_content = !matches!(request.body, Body::None | Body::Length(0));
        client.last = !request.keep_alive && !has_content;
        let mut to = To::of(request, head, !keep_alive || has_content);
        if matches!(request.method, Method::Connect | Method::Trace) {
            // What follows a CONNECT may be meant for the tunnel that there will not be.
            to.close |= request.method == Method::Connect;
            return Err((Reason::MethodUnsupported, to));
        }
        self.path.clear();
        let plain = request.path_of(head);
        let rewritten = match fourfold_http::path::normalize(plain, &settings.paths, &mut self.path) {
            Ok(rewritten) => rewritten,
            Err(reject) => return Err((Reason::Rejected(reject), to)),
        };
        let who = Who::of(request, head, settings, client.peer.ip(), client.peer.port);
        if let Err(wait) = within_rates(core, client.listener, &who, request, head, now_us) {
            to.retry_after_s = Some(wait.seconds());
            return Err((Reason::RateLimited, to));
        }
        let path = if rewritten { &self.path } else { plain };
        let Some((index, route)) = find(settings, request, head, path) else {
            return Err((Reason::NoRoute, to));
        };
        let most = route.body_bytes_max.or(settings.body_bytes_max);
        if matches!(request.body, Body::Length(length) if most.is_some_and(|most| length > most)) {
            return Err((Reason::BodyTooLarge, to));
        }
        Ok(Admitted { to, who, keep_alive, route: index, rewritten })
    }

    fn answer_or_forward(
        &mut self,
        core: &Core,
        listener: u16,
        settings: &Settings,
        head: &[u8],
        admitted: Admitted,
    ) -> Result<Verdict, (Reason, To)> {
        let (to, who) = (&admitted.to, &admitted.who);
        let request = &self.request;
        let Some(route) = settings.routes.get(admitted.route) else {
            return Err((Reason::NoRoute, admitted.to));
        };
        let mut id = [0; 32];
        let request_id = request_id(settings, request, head, who, &mut self.random, &mut id);
        if let Some(facts) = &mut self.heard {
            facts.set_request_id(request_id);
            (facts.client, facts.route) = (who.client, Some(admitted.route as u32));
        }
        let pool = match &route.action {
            Action::Pool(pool) => Some(*pool),
            Action::Split(shares) => split(shares, self.random.next_u64()),
            Action::Redirect { .. } | Action::Respond { .. } => None,
        };
        let plan = core.shared.plan.listeners.get(usize::from(listener));
        let onward = Onward {
            request,
            head,
            path: if admitted.rewritten { &self.path } else { request.path_of(head) },
            http: settings,
            route,
            who,
            listener: plan.map_or("", |listener| &listener.name),
            listener_port: plan.and_then(|one| one.binds.first()).map_or(0, SocketAddr::port),
            request_id,
            pool: pool.and_then(|pool| core.shared.plan.pools.get(pool)).map_or("", |pool| &pool.name),
        };
        let Some(pool) = pool else {
            self.out.clear();
            let status = answer(&onward, to, &mut self.out);
            return Ok(Verdict::Answered { status, close: to.close });
        };
        let (hash, stay) = wishes(core, pool, &onward);
        let asked = h1::Asked { method: request.method, upgrade: request.upgrade.is_some() };
        let dice = if route.mirror.is_some() { self.random.next_u64() } else { 0 };
        let mut sent = self.spare.pop().unwrap_or_default();
        onward.write(request.body, &mut sent);
        let mut response_fields = Vec::new();
        head::write_ops(&route.response_fields, &mut response_fields, |variable, out| {
            onward.variable(variable, out)
        });
        Ok(Verdict::Forward(Box::new(Begun {
            pool: pool as u16,
            listener,
            route: admitted.route as u32,
            asked,
            version: request.version,
            keep_alive: admitted.keep_alive,
            json: to.json,
            expects: request.expect_continue,
            body: request.body,
            hash,
            stay,
            mirror: Self::mirror_of(route.mirror.as_ref(), asked, dice),
            response_fields,
            sent,
            log: self.heard.take(),
        })))
    }
}

/// Where a keyed balance, or a cookie, wants the request to go.
fn wishes(core: &Core, pool: usize, onward: &Onward<'_>) -> (Option<u64>, Option<u32>) {
    let (Some(plan), Some(state)) = (core.shared.plan.pools.get(pool), core.shared.pools.get(pool)) else {
        return (None, None);
    };
    let Onward { request, head, path, who, .. } = *onward;
    let hash = plan.balance.is_keyed().then(|| key_of(&plan.hash_key, request, head, path, who));
    let stuck = plan.sticky.as_ref().and_then(|sticky| stuck_to(sticky, state.salt, request, head));
    (hash, stuck.and_then(|id| state.ids.get(&id).copied()))
}

/// Every one of the listener's request_rates must have room.
fn within_rates(
    core: &Core,
    listener: u16,
    who: &Who,
    request: &h1::Request,
    head: &[u8],
    now_us: u64,
) -> Result<(), RetryAfter> {
    let Some(rates) = core.shared.rates.get(usize::from(listener)) else { return Ok(()) };
    if rates.requests.is_empty() {
        return Ok(());
    }
    let field = |name: &str| value_of(request, head, name);
    rates.requests.take(who.client, field, now_us).inspect_err(|_| {
        core.notice(&core.shared.notices.request_rate, now_us / 1000, || {
            let name = core.shared.plan.listeners.get(usize::from(listener)).map_or("", |one| &one.name);
            format!(
                "listener {name}: requests of {} are answered with 429: more than request_rate",
                who.client
            )
        });
    })
}

pub(super) fn value_of<'a>(request: &h1::Request, head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let same = |field: &&h1::Field| field.name.of(head).eq_ignore_ascii_case(name.as_bytes());
    request.fields.iter().find(same).map(|field| field.value.of(head))
}

fn find<'a>(
    settings: &'a Settings,
    request: &h1::Request,
    head: &[u8],
    path: &[u8],
) -> Option<(usize, &'a Route)> {
    // One route that takes everything needs no looking up.
    if let [only] = &*settings.routes
        && only.spec.is_everything()
    {
        return Some((0, only));
    }
    let header = |name: &str| {
        let same = |field: &&h1::Field| field.name.of(head).eq_ignore_ascii_case(name.as_bytes());
        request.fields.iter().find(same).map(|field| field.value.of(head))
    };
    settings.routes.find(&fourfold_http::route::Ask {
        method: request.method_name.of(head),
        host: request.host.of(head),
        path,
        query: request.query.map(|query| query.of(head)),
        header: &header,
    })
}

fn split(shares: &[(usize, u32)], random: u64) -> Option<usize> {
    let total: u64 = shares.iter().map(|(_, share)| u64::from(*share)).sum();
    let mut at = random.checked_rem(total)?;
    shares.iter().find_map(|(pool, share)| {
        let here = at < u64::from(*share);
        at = at.saturating_sub(u64::from(*share));
        here.then_some(*pool)
    })
}

/// The one that a trusted proxy before us gave it, or a new one.
fn request_id<'a>(
    settings: &Settings,
    request: &h1::Request,
    head: &'a [u8],
    who: &Who,
    random: &mut fourfold_base::prng::Prng,
    id: &'a mut [u8; 32],
) -> &'a [u8] {
    let Some(name) = &settings.request_id else { return b"" };
    if who.trusted {
        let same = |field: &&h1::Field| field.name.of(head).eq_ignore_ascii_case(name.as_bytes());
        if let Some(field) = request.fields.iter().find(same) {
            return field.value.of(head);
        }
    }
    let words = [random.next_u64(), random.next_u64()];
    let nibbles = words.iter().flat_map(|word| (0..16).map(move |at| (word >> (60 - 4 * at)) & 15));
    for (digit, nibble) in id.iter_mut().zip(nibbles) {
        *digit = b"0123456789abcdef".get(nibble as usize).copied().unwrap_or(b'0');
    }
    id
}

fn answer(onward: &Onward<'_>, to: &To, out: &mut Vec<u8>) -> u16 {
    match &onward.route.action {
        Action::Redirect { status, location } => {
            let mut text = Vec::new();
            let fits = location.render(&mut text, |variable, out| onward.variable(variable, out));
            let text = if fits && h1::is_field_value(&text) { text } else { b"/".to_vec() };
            reply::fixed(*status, Some(&text), "text/plain", b"", to, out);
            *status
        }
        Action::Respond { status, content } => {
            reply::fixed(*status, None, &content.content_type, &content.bytes, to, out);
            *status
        }
        Action::Pool(_) | Action::Split(_) => 500,
    }
}
