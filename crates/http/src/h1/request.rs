//! A request's head.

use super::authority::Authority;
use super::bytes::{target_end, token_end};
use super::field::{Field, FieldKind};
use super::head::{Seen, content_length, leading_lines, line_break, only_chunked, read_fields};
use super::{Body, Limits, Reject, Span, Version};

/// The longest registered method has 17 (UPDATEREDIRECTREF).
const METHOD_BYTES_MAX: usize = 32;

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
    #[default]
    Other,
}

impl Method {
    /// RFC 9110 9.1: methods are case-sensitive.
    pub const fn of(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"CONNECT" => Self::Connect,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }

    /// RFC 9110 9.2.1.
    pub const fn is_safe(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Options | Self::Trace)
    }

    /// RFC 9110 9.2.2.
    pub const fn is_idempotent(self) -> bool {
        self.is_safe() || matches!(self, Self::Put | Self::Delete)
    }
}

/// RFC 9112 3.2.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub enum Form {
    #[default]
    Origin,
    Absolute,
    Authority,
    Asterisk,
}

/// What a request's head says. Kept by its owner and reused from request to request: parsing allocates nothing once
/// `fields` has grown. After a [`Reject`] it holds nothing of use.
#[derive(Clone, Default, Debug)]
pub struct Request {
    pub method: Method,
    pub method_name: Span,
    pub form: Form,
    /// Without the query; `*` of the asterisk form; empty when the target has none, see [`Request::path_of`].
    pub path: Span,
    /// What stands behind the first `?`.
    pub query: Option<Span>,
    /// The effective authority: the target's if it has one (Host agrees with it), else Host's. Empty for HTTP/1.0 without.
    pub host: Span,
    pub version: Version,
    pub fields: Vec<Field>,
    pub body: Body,
    pub keep_alive: bool,
    /// The one protocol to change to. Only in an HTTP/1.1 request without content that has `Connection: upgrade`.
    pub upgrade: Option<Span>,
    /// Only in an HTTP/1.1 request with content (RFC 9110 10.1.1).
    pub expect_continue: bool,
}

impl Request {
    /// `head` is as long as [`super::head_end`] said.
    pub fn parse(&mut self, head: &[u8], limits: &Limits) -> Result<(), Reject> {
        let start = skip_empty_lines(head)?;
        let (target, at) = self.read_line(head, start, limits)?;
        if head.len() > limits.head_bytes as usize {
            return Err(Reject::HeadTooLarge);
        }
        let seen = read_fields(head, at, limits, &mut self.fields)?;
        self.read_target(head, target, &seen)?;
        self.frame(head, &seen)
    }

    pub fn field(&self, kind: FieldKind) -> Option<&Field> {
        self.all(kind).next()
    }

    pub fn all(&self, kind: FieldKind) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(move |field| field.kind == kind)
    }

    /// The path as it is routed and sent on: `/` for an absolute target that ends with its authority, `*` if that is an
    /// OPTIONS (RFC 9112 3.2.4). Empty for CONNECT.
    pub fn path_of<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        match self.form {
            Form::Absolute
                if self.path.is_empty() && self.method == Method::Options && self.query.is_none() =>
            {
                b"*"
            }
            Form::Absolute if self.path.is_empty() => b"/",
            _ => self.path.of(head),
        }
    }

    /// RFC 9112 3: request-line = method SP request-target SP HTTP-version. Returns the target and where the fields start.
    fn read_line(&mut self, head: &[u8], start: usize, limits: &Limits) -> Result<(Span, usize), Reject> {
        let method_end = token_end(head, start);
        let line_bytes = limits.line_bytes as usize;
        if method_end - start > METHOD_BYTES_MAX {
            return Err(Reject::MethodTooLong);
        }
        if method_end == start || head.get(method_end) != Some(&b' ') {
            return Err(Reject::MethodInvalid);
        }
        let end = target_end(head, method_end + 1);
        if end - start >= line_bytes {
            return Err(Reject::TargetTooLong);
        }
        if head.get(end) != Some(&b' ') || end == method_end + 1 {
            return Err(bad_target(head, method_end + 1, end));
        }
        self.version = request_version(head, end + 1)?;
        let next = line_break(head, end + 1 + VERSION_BYTES).map_err(after_version)?;
        if next - start > line_bytes {
            return Err(Reject::TargetTooLong);
        }
        self.method_name = Span::new(start, method_end);
        self.method = Method::of(self.method_name.of(head));
        Ok((Span::new(method_end + 1, end), next))
    }

    fn read_target(&mut self, head: &[u8], target: Span, seen: &Seen) -> Result<(), Reject> {
        let named = self.check_host(head, seen)?;
        let text = target.of(head);
        self.query = None;
        self.host = seen.host.unwrap_or_default();
        if self.method == Method::Connect {
            return self.read_connect(head, target, named);
        }
        match text {
            [b'/', ..] => {
                self.form = Form::Origin;
                self.split_query(head, target);
            }
            b"*" if self.method == Method::Options => {
                self.form = Form::Asterisk;
                self.path = target;
            }
            _ => return self.read_absolute(head, target, named),
        }
        Ok(())
    }

    /// RFC 9112 3.2: a 400 for HTTP/1.1 without Host, for more than one, for an invalid one.
    fn check_host<'a>(&self, head: &'a [u8], seen: &Seen) -> Result<Option<Authority<'a>>, Reject> {
        match seen.host {
            Some(host) => match Authority::parse(host.of(head)) {
                Err(Reject::TargetUserInfo) => Err(Reject::HostInvalid),
                parsed => parsed.map(Some),
            },
            None if self.version == Version::Http11 => Err(Reject::HostMissing),
            None => Ok(None),
        }
    }

    /// RFC 9112 3.2.3: CONNECT has the authority form, with its port, and no other method has it.
    fn read_connect(&mut self, head: &[u8], target: Span, named: Option<Authority>) -> Result<(), Reject> {
        let authority = Authority::parse(target.of(head)).map_err(|reject| match reject {
            Reject::HostInvalid | Reject::HostEmpty => Reject::TargetForm,
            other => other,
        })?;
        // RFC 9110 9.3.6: there is no default port; a client MUST send the port number.
        let port = authority.port.ok_or(Reject::TargetForm)?;
        let default = Some(port).filter(|port| matches!(port, 80 | 443));
        if named.is_some_and(|named| !named.is_same(&authority, default)) {
            return Err(Reject::HostMismatch);
        }
        self.form = Form::Authority;
        self.path = Span::default();
        self.host = target;
        Ok(())
    }

    /// RFC 9112 3.2.2: a server MUST accept the absolute form. It wins over Host; here both must agree.
    fn read_absolute(&mut self, head: &[u8], target: Span, named: Option<Authority>) -> Result<(), Reject> {
        let text = target.of(head);
        let (scheme_bytes, default) = scheme(text)?;
        let rest = text.get(scheme_bytes..).unwrap_or_default();
        let length = rest.iter().position(|byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
        let authority = Authority::parse(rest.get(..length).unwrap_or_default())
            .map_err(|reject| user_info(rest.get(..length), reject))?;
        if named.is_some_and(|named| !named.is_same(&authority, Some(default))) {
            return Err(Reject::HostMismatch);
        }
        let start = target.start as usize + scheme_bytes;
        self.form = Form::Absolute;
        self.host = Span::new(start, start + length);
        self.split_query(head, Span::new(start + length, target.end as usize));
        Ok(())
    }

    fn split_query(&mut self, head: &[u8], target: Span) {
        self.path = target;
        self.query = memchr::memchr(b'?', target.of(head)).map(|offset| {
            let mark = target.start as usize + offset;
            self.path.end = mark as u32;
            Span::new(mark + 1, target.end as usize)
        });
    }

    fn frame(&mut self, head: &[u8], seen: &Seen) -> Result<(), Reject> {
        self.body = request_body(head, seen, self.version)?;
        let content = !matches!(self.body, Body::None | Body::Length(0));
        // RFC 9110 9.3.8: a client MUST NOT send content in a TRACE request; 9.3.6: CONNECT has none.
        if content && matches!(self.method, Method::Trace | Method::Connect) {
            return Err(Reject::BodyForbidden);
        }
        self.keep_alive = seen.connection.persists(self.version);
        let current = self.version == Version::Http11;
        // RFC 9110 7.8: a server MUST ignore Upgrade in an HTTP/1.0 request. With content it could only be obeyed after all of
        // that, and both sides would have to agree where it ends: such a request is served as if it had not asked.
        self.upgrade = seen.protocol(head).filter(|_| current && !content && self.method != Method::Connect);
        self.expect_continue = expects(head, seen)? && current && content;
        Ok(())
    }
}

/// Where the request line starts.
fn skip_empty_lines(head: &[u8]) -> Result<usize, Reject> {
    let start = leading_lines(head);
    match head.get(..start) {
        _ if matches!(head.get(start), Some(b'\r' | b'\n')) => Err(Reject::EmptyLines),
        Some(b"" | b"\r\n" | b"\r\n\r\n") => Ok(start),
        _ => Err(Reject::BareLf),
    }
}

/// RFC 9112 6.3.
fn request_body(head: &[u8], seen: &Seen, version: Version) -> Result<Body, Reject> {
    match (seen.transfer_encoding, seen.content_length) {
        (None, None) => Ok(Body::None),
        (None, Some(length)) => content_length(length.of(head)).map(Body::Length),
        (Some(_), Some(_)) => Err(Reject::LengthConflict),
        (Some(_), None) if version == Version::Http10 => Err(Reject::TransferEncodingInHttp10),
        (Some(coding), None) => only_chunked(coding.of(head)).map(|()| Body::Chunked),
    }
}

/// RFC 9110 10.1.1: 100-continue is the only expectation there is.
fn expects(head: &[u8], seen: &Seen) -> Result<bool, Reject> {
    match seen.expect {
        None => Ok(false),
        Some(value) if value.of(head).eq_ignore_ascii_case(b"100-continue") => Ok(true),
        Some(_) => Err(Reject::ExpectUnknown),
    }
}

const VERSION_BYTES: usize = 8;

/// RFC 9112 2.3: HTTP-version is case-sensitive.
pub(super) fn version(bytes: &[u8], at: usize) -> Result<Version, Reject> {
    match bytes.get(at..).unwrap_or_default() {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1', ..] => Ok(Version::Http11),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0', ..] => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9', b'\r' | b' ', ..] => {
            Err(Reject::VersionUnsupported)
        }
        _ => Err(Reject::VersionInvalid),
    }
}

fn request_version(head: &[u8], at: usize) -> Result<Version, Reject> {
    version(head, at).map_err(|reject| match head.get(at..) {
        // A space at the end, two spaces, or more words than three.
        Some([b' ' | b'\r' | b'\n', ..]) => Reject::RequestLineInvalid,
        _ => reject,
    })
}

fn after_version(reject: Reject) -> Reject {
    match reject {
        Reject::FieldValueInvalid => Reject::RequestLineInvalid,
        other => other,
    }
}

fn bad_target(head: &[u8], start: usize, end: usize) -> Reject {
    match head.get(end) {
        Some(b'#') => Reject::TargetFragment,
        Some(b' ') => Reject::RequestLineInvalid,
        Some(b'\r') if head.get(end + 1) == Some(&b'\n') && end > start => Reject::VersionMissing,
        Some(b'\n') if end > start => Reject::BareLf,
        _ => Reject::TargetInvalid,
    }
}

fn user_info(authority: Option<&[u8]>, reject: Reject) -> Reject {
    if authority.unwrap_or_default().contains(&b'@') { Reject::TargetUserInfo } else { reject }
}

/// The length of `scheme://` and the scheme's port.
fn scheme(target: &[u8]) -> Result<(usize, u16), Reject> {
    for (scheme, port) in [(&b"http://"[..], 80), (b"https://", 443)] {
        if super::connection::starts_with(target, scheme) {
            return Ok((scheme.len(), port));
        }
    }
    let other = target.windows(3).any(|three| three == b"://");
    Err(if other { Reject::TargetScheme } else { Reject::TargetForm })
}
