//! Heads as they go on: written anew from the parts that were understood, never copied.
//!
//! Owns what is removed (RFC 9110 7.6.1), what is added about the client and the way, and the user's changes. Pure: bytes in,
//! bytes out.

use fourfold_config::http::{FieldOps, Forwarded, Http, PathRewrite, Route, ServerHeader};
use fourfold_config::template::{Template, Variable};
use fourfold_http::h1::{self, Body, FieldKind, Version, encode};
use std::io::Write;
use std::net::IpAddr;

/// Who asked, as far as the request and the trusted proxies before us tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who {
    /// As trusted proxies tell it; else `peer`.
    pub client: IpAddr,
    pub client_port: u16,
    /// The other end of the connection.
    pub peer: IpAddr,
    /// What the request says about its way here is believed.
    pub trusted: bool,
    /// As trusted proxies tell it.
    pub https: bool,
}

impl Who {
    /// RFC 7239 and its forerunners are written by whoever likes to: only what trusted proxies appended counts, from the right.
    pub fn of(request: &h1::Request, head: &[u8], http: &Http, peer: IpAddr, port: u16) -> Self {
        let trusted = !http.trusted_proxies.is_empty() && http.trusted_proxies.contains(peer);
        let mut who = Self { client: peer, client_port: port, peer, trusted, https: false };
        if trusted {
            let last = request.all(FieldKind::XForwardedProto).last();
            who.https = last.is_some_and(|field| field.value.of(head).eq_ignore_ascii_case(b"https"));
            who.believe(request, head, http);
        }
        who
    }

    fn believe(&mut self, request: &h1::Request, head: &[u8], http: &Http) {
        let lists: Vec<&[u8]> =
            request.all(FieldKind::XForwardedFor).map(|field| field.value.of(head)).collect();
        for entry in lists.iter().rev().flat_map(|list| list.rsplit(|byte| *byte == b',')) {
            let Some(ip) =
                std::str::from_utf8(entry).ok().and_then(|text| text.trim().parse::<IpAddr>().ok())
            else {
                return;
            };
            (self.client, self.client_port) = (ip, 0);
            if !http.trusted_proxies.contains(ip) {
                return;
            }
        }
    }
}

/// All that a request's new head is made of.
pub(super) struct Onward<'a> {
    pub request: &'a h1::Request,
    pub head: &'a [u8],
    /// Normalised; rewriting is done here.
    pub path: &'a [u8],
    pub http: &'a Http,
    pub route: &'a Route,
    pub who: &'a Who,
    pub listener: &'a str,
    pub listener_port: u16,
    pub request_id: &'a [u8],
    /// What an HTTP/1.0 request without Host is about.
    pub pool: &'a str,
}

impl Onward<'_> {
    pub fn variable(&self, variable: Variable, out: &mut Vec<u8>) {
        let request = self.request;
        let query = request.query.map(|query| query.of(self.head));
        match variable {
            Variable::ClientIp => address(self.who.client, out),
            Variable::ClientPort => encode::decimal(u64::from(self.who.client_port), out),
            Variable::PeerIp => address(self.who.peer, out),
            Variable::Host => out.extend_from_slice(request.host.of(self.head)),
            Variable::Path => out.extend_from_slice(self.path),
            Variable::Query => out.extend_from_slice(query.unwrap_or_default()),
            Variable::Uri => {
                out.extend_from_slice(self.path);
                if let Some(query) = query {
                    out.push(b'?');
                    out.extend_from_slice(query);
                }
            }
            Variable::Method => out.extend_from_slice(request.method_name.of(self.head)),
            Variable::Scheme => out.extend_from_slice(self.scheme()),
            Variable::RequestId => out.extend_from_slice(self.request_id),
            Variable::Listener => out.extend_from_slice(self.listener.as_bytes()),
            Variable::Route => out.extend_from_slice(self.route.name.as_bytes()),
        }
    }

    fn scheme(&self) -> &'static [u8] {
        if self.who.https { b"https" } else { b"http" }
    }

    /// Writes the request's head. `body` is how its content is framed from here on.
    pub fn write(&self, body: Body, out: &mut Vec<u8>) {
        let (request, head) = (self.request, self.head);
        out.extend_from_slice(request.method_name.of(head));
        out.push(b' ');
        self.target(out);
        out.extend_from_slice(b" HTTP/1.1\r\nHost: ");
        out.extend_from_slice(self.host());
        out.extend_from_slice(b"\r\n");
        let ops = &self.route.request_fields;
        for field in &request.fields {
            let (name, value) = (field.name.of(head), field.value.of(head));
            if self.passes(field.kind, name) && (ops.is_empty() || !ops.replaces(name)) {
                encode::field(name, value, out);
            }
        }
        match body {
            Body::Length(length) => length_field(length, out),
            Body::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Body::None | Body::UntilClose => {}
        }
        if request.expect_continue {
            out.extend_from_slice(b"Expect: 100-continue\r\n");
        }
        if let Some(protocol) = request.upgrade {
            upgrade(protocol.of(head), out);
        }
        self.tell_who(out);
        self.tell_way(out);
        write_ops(ops, out, |variable, out| self.variable(variable, out));
        out.extend_from_slice(b"\r\n");
    }

    fn target(&self, out: &mut Vec<u8>) {
        match &self.route.rewrite.path {
            None => out.extend_from_slice(self.path),
            Some(PathRewrite::Path(path)) => out.extend_from_slice(path.as_bytes()),
            Some(PathRewrite::Prefix { matched_bytes, with }) => {
                let rest = self.path.get(*matched_bytes..).unwrap_or_default();
                out.extend_from_slice(with.as_bytes());
                out.extend_from_slice(rest);
                if with.is_empty() && rest.is_empty() {
                    out.push(b'/');
                }
            }
        }
        if let Some(query) = self.request.query {
            out.push(b'?');
            out.extend_from_slice(query.of(self.head));
        }
    }

    fn host(&self) -> &[u8] {
        match (&self.route.rewrite.host, self.request.host.of(self.head)) {
            (Some(host), _) => host.as_bytes(),
            (None, b"") => self.pool.as_bytes(),
            (None, host) => host,
        }
    }

    /// Whether a field of the client's goes on as it is.
    fn passes(&self, kind: FieldKind, name: &[u8]) -> bool {
        use FieldKind::{
            ContentLength, Expect, Forwarded, Host, Other, Via, XForwardedFor, XForwardedHost,
            XForwardedPort, XForwardedPrefix, XForwardedProto, XForwardedServer, XRealIp,
        };
        match kind {
            // Whatever else calls itself so (-Ssl, -Scheme, -User) is worth as little from a stranger.
            Other => !self.is_request_id(name) && (self.who.trusted || !is_forwarding(name)),
            Host | ContentLength | Expect => false,
            // Extended or replaced below; from a stranger they are worth nothing.
            XForwardedFor | XForwardedProto | XForwardedHost | XForwardedPort | XRealIp => {
                self.who.trusted && !self.tells_x()
            }
            Forwarded => self.who.trusted && !self.tells_rfc7239(),
            XForwardedServer | XForwardedPrefix => self.who.trusted,
            Via => true,
            kind => !kind.hop_by_hop() && !self.is_request_id(name),
        }
    }

    fn is_request_id(&self, name: &[u8]) -> bool {
        self.http.request_id.as_ref().is_some_and(|own| own.as_bytes().eq_ignore_ascii_case(name))
    }

    fn tells_x(&self) -> bool {
        matches!(self.http.forwarded, Forwarded::X | Forwarded::Both)
    }

    fn tells_rfc7239(&self) -> bool {
        matches!(self.http.forwarded, Forwarded::Rfc7239 | Forwarded::Both)
    }

    fn tell_who(&self, out: &mut Vec<u8>) {
        if self.tells_x() {
            out.extend_from_slice(b"X-Forwarded-For: ");
            self.before(FieldKind::XForwardedFor, out);
            address(self.who.peer, out);
            out.extend_from_slice(b"\r\nX-Real-IP: ");
            address(self.who.client, out);
            out.extend_from_slice(b"\r\nX-Forwarded-Proto: ");
            out.extend_from_slice(self.scheme());
            out.extend_from_slice(b"\r\nX-Forwarded-Host: ");
            out.extend_from_slice(
                self.believed(FieldKind::XForwardedHost).unwrap_or(self.request.host.of(self.head)),
            );
            out.extend_from_slice(b"\r\nX-Forwarded-Port: ");
            match self.believed(FieldKind::XForwardedPort) {
                Some(port) => out.extend_from_slice(port),
                None => encode::decimal(u64::from(self.listener_port), out),
            }
            out.extend_from_slice(b"\r\n");
        }
        if self.tells_rfc7239() {
            out.extend_from_slice(b"Forwarded: ");
            self.before(FieldKind::Forwarded, out);
            // RFC 7239 6: an IPv6 address is quoted and in brackets.
            let (before, behind): (&[u8], &[u8]) = match self.who.peer {
                IpAddr::V4(_) => (b"for=", b";host=\""),
                IpAddr::V6(_) => (b"for=\"[", b"]\";host=\""),
            };
            out.extend_from_slice(before);
            address(self.who.peer, out);
            out.extend_from_slice(behind);
            out.extend_from_slice(self.request.host.of(self.head));
            out.extend_from_slice(b"\";proto=");
            out.extend_from_slice(self.scheme());
            out.extend_from_slice(b"\r\n");
        }
    }

    /// What trusted proxies before us wrote into a list, with its comma.
    fn before(&self, kind: FieldKind, out: &mut Vec<u8>) {
        if self.who.trusted {
            for field in self.request.all(kind) {
                out.extend_from_slice(field.value.of(self.head));
                out.extend_from_slice(b", ");
            }
        }
    }

    fn believed(&self, kind: FieldKind) -> Option<&[u8]> {
        let field = self.request.field(kind).filter(|_| self.who.trusted)?;
        Some(field.value.of(self.head))
    }

    fn tell_way(&self, out: &mut Vec<u8>) {
        if let Some(name) = &self.http.via {
            // RFC 9110 7.6.3: received-protocol is the version that the message came in.
            out.extend_from_slice(match self.request.version {
                Version::Http10 => b"Via: 1.0 ",
                Version::Http11 => b"Via: 1.1 ",
            });
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        if let Some(name) = &self.http.request_id {
            encode::field(name.as_bytes(), self.request_id, out);
        }
    }
}

fn is_forwarding(name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"x-forwarded-";
    name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// How a response's content is framed for the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Down {
    /// The head ends it.
    Nothing,
    Length(u64),
    Chunked,
    /// For HTTP/1.0 clients when the length is not known.
    UntilClose,
}

impl Down {
    pub fn of(body: Body, client: Version) -> Self {
        match (body, client) {
            (Body::None, _) => Down::Nothing,
            (Body::Length(length), _) => Down::Length(length),
            (Body::Chunked | Body::UntilClose, Version::Http11) => Down::Chunked,
            (Body::Chunked | Body::UntilClose, Version::Http10) => Down::UntilClose,
        }
    }
}

/// What a response's new head is made of, besides the response.
pub(super) struct Back<'a> {
    pub http: &'a Http,
    pub ops: &'a FieldOps,
    /// What the user sets and adds, as it was written when the request was read.
    pub fields: &'a [u8],
    pub down: Down,
    pub client: Version,
    /// The client's connection ends with this response.
    pub close: bool,
    /// The client asked with HEAD, or gets a 304: a length speaks of what is not there.
    pub announces: bool,
}

impl Back<'_> {
    pub fn write(&self, response: &h1::Response, head: &[u8], out: &mut Vec<u8>) {
        encode::status_line(response.status, response.reason.of(head), out);
        for field in &response.fields {
            let (name, value) = (field.name.of(head), field.value.of(head));
            let passes = match field.kind {
                FieldKind::ContentLength => self.announces && self.down == Down::Nothing,
                FieldKind::Server => self.http.server_header == ServerHeader::Pass,
                kind => !kind.hop_by_hop(),
            };
            if passes && (self.ops.is_empty() || !self.ops.replaces(name)) {
                encode::field(name, value, out);
            }
        }
        if self.http.server_header == ServerHeader::Overwrite {
            out.extend_from_slice(b"Server: fourfold\r\n");
        }
        match self.down {
            Down::Length(length) => length_field(length, out),
            Down::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Down::Nothing | Down::UntilClose => {}
        }
        if let Some(name) = &self.http.via {
            out.extend_from_slice(match response.version {
                Version::Http10 => b"Via: 1.0 ",
                Version::Http11 => b"Via: 1.1 ",
            });
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        match response.upgrade.filter(|_| response.status == 101) {
            Some(protocol) => upgrade(protocol.of(head), out),
            None => connection(self.close, self.client, out),
        }
        if !response.is_interim() {
            out.extend_from_slice(self.fields);
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// RFC 9112 9.3: HTTP/1.1 persists unless told otherwise, HTTP/1.0 only if told so.
pub(super) fn connection(close: bool, client: Version, out: &mut Vec<u8>) {
    match (close, client) {
        (true, _) => out.extend_from_slice(b"Connection: close\r\n"),
        (false, Version::Http10) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        (false, Version::Http11) => {}
    }
}

pub(super) fn length_field(length: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Content-Length: ");
    encode::decimal(length, out);
    out.extend_from_slice(b"\r\n");
}

fn upgrade(protocol: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: ");
    out.extend_from_slice(protocol);
    out.extend_from_slice(b"\r\n");
}

/// Without the machinery of formatting: it is written with every request.
fn address(ip: IpAddr, out: &mut Vec<u8>) {
    let IpAddr::V4(ip) = ip else {
        // Writing into memory does not fail.
        let _ = write!(out, "{ip}");
        return;
    };
    for (at, octet) in ip.octets().into_iter().enumerate() {
        if at > 0 {
            out.push(b'.');
        }
        encode::decimal(u64::from(octet), out);
    }
}

trait Replaces {
    fn replaces(&self, name: &[u8]) -> bool;
}

impl Replaces for FieldOps {
    /// Whether a field of the message itself gives way.
    fn replaces(&self, name: &[u8]) -> bool {
        let is = |own: &String| own.as_bytes().eq_ignore_ascii_case(name);
        self.remove.iter().any(is) || self.set.iter().any(|(own, _)| is(own))
    }
}

/// What the user sets and adds.
pub(super) fn write_ops(ops: &FieldOps, out: &mut Vec<u8>, value: impl Fn(Variable, &mut Vec<u8>)) {
    for (name, template) in ops.set.iter().chain(&ops.add) {
        write_template(name, template, out, &value);
    }
}

/// A value that came out too long, or with bytes that no field may have, is left out whole.
fn write_template(
    name: &str,
    template: &Template,
    out: &mut Vec<u8>,
    value: &impl Fn(Variable, &mut Vec<u8>),
) {
    let start = out.len();
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    let from = out.len();
    let fits = template.render(out, value);
    if fits && h1::is_field_value(out.get(from..).unwrap_or_default()) {
        out.extend_from_slice(b"\r\n");
    } else {
        out.truncate(start);
    }
}
