//! Heads of requests and responses. One reading or none: what RFC 9112 leaves to the recipient's leniency is refused here.

use super::Malformed;
use super::body::Framing;

/// A proxy that hands over a longer head has no limit of its own.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

type Result<T> = std::result::Result<T, Malformed>;

/// The length of the head that `bytes` begin with, its empty line included. A bare LF ends lines here, so that the parser
/// gets to refuse it.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    memchr::memchr_iter(b'\n', bytes).find_map(|lf| match bytes.get(lf + 1..)? {
        [b'\n', ..] => Some(lf + 2),
        [b'\r', b'\n', ..] => Some(lf + 3),
        _ => None,
    })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    Http10,
    Http11,
}

/// What the fields of a head say about its message and its connection.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    length: Option<u64>,
    chunked: bool,
    hosts: u32,
    pub close: bool,
    pub keep_alive: bool,
    pub expect_continue: bool,
    upgrade: bool,
    websocket: bool,
    websocket_13: bool,
    /// Sec-WebSocket-Key of a request, Sec-WebSocket-Accept of a response.
    pub websocket_key: Option<String>,
}

impl Fields {
    /// RFC 6455 4.2.1, 4.2.2.
    pub fn asks_for_websocket(&self) -> bool {
        self.upgrade && self.websocket && self.websocket_13
    }

    pub fn agrees_to_websocket(&self) -> bool {
        self.upgrade && self.websocket
    }

    fn note(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            4 if is("host") => self.hosts += 1,
            6 if is("expect") => self.expect_continue |= value.eq_ignore_ascii_case(b"100-continue"),
            7 if is("upgrade") => self.websocket |= has_word(value, b"websocket"),
            10 if is("connection") => {
                self.close |= has_word(value, b"close");
                self.keep_alive |= has_word(value, b"keep-alive");
                self.upgrade |= has_word(value, b"upgrade");
            }
            14 if is("content-length") => return self.note_length(value),
            17 if is("transfer-encoding") => return self.note_encoding(value),
            17 if is("sec-websocket-key") => self.websocket_key = String::from_utf8(value.to_vec()).ok(),
            20 if is("sec-websocket-accept") => self.websocket_key = String::from_utf8(value.to_vec()).ok(),
            21 if is("sec-websocket-version") => self.websocket_13 = value == b"13",
            _ => {}
        }
        Ok(())
    }

    /// RFC 9112 6.3: a second length, a list, a sign or a space is an unrecoverable error.
    fn note_length(&mut self, value: &[u8]) -> Result<()> {
        let length = digits(value).ok_or(Malformed("content-length is not a number"))?;
        match self.length.replace(length) {
            None => Ok(()),
            Some(_) => Err(Malformed("content-length twice")),
        }
    }

    fn note_encoding(&mut self, value: &[u8]) -> Result<()> {
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Malformed("transfer-encoding is not chunked"));
        }
        match std::mem::replace(&mut self.chunked, true) {
            false => Ok(()),
            true => Err(Malformed("transfer-encoding twice")),
        }
    }

    fn framing(&self, version: Version, none: Framing) -> Result<Framing> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Malformed("both content-length and transfer-encoding")),
            (true, None) if version == Version::Http10 => Err(Malformed("transfer-encoding in HTTP/1.0")),
            (true, None) => Ok(Framing::Chunked),
            (false, Some(length)) => Ok(Framing::Length(length)),
            (false, None) => Ok(none),
        }
    }

    fn persists(&self, version: Version) -> bool {
        match version {
            Version::Http11 => !self.close,
            Version::Http10 => self.keep_alive && !self.close,
        }
    }
}

pub struct Request<'a> {
    pub method: &'a [u8],
    pub target: &'a [u8],
    pub version: Version,
    pub fields: Fields,
    pub framing: Framing,
    pub keep_alive: bool,
}

impl<'a> Request<'a> {
    /// `head` as [`head_end`] measures it.
    pub fn parse(head: &'a [u8]) -> Result<Self> {
        let mut lines = Lines(head);
        let line = lines.next().unwrap_or(Err(Malformed("no request line")))?;
        let mut words = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Malformed("request line is not three words"));
        };
        if !is_token(method) {
            return Err(Malformed("method is not a token"));
        }
        check_target(method, target)?;
        let version = parse_version(version)?;
        let fields = read_fields(lines)?;
        match (fields.hosts, version) {
            (1, _) | (0, Version::Http10) => {}
            (0, Version::Http11) => return Err(Malformed("no host")),
            _ => return Err(Malformed("host twice")),
        }
        let framing = fields.framing(version, Framing::None)?;
        Ok(Self { method, target, version, framing, keep_alive: fields.persists(version), fields })
    }

    /// The path, with no query; of an absolute form, without scheme and authority.
    pub fn path(&self) -> &'a [u8] {
        let target = match self.target.strip_prefix(b"http://") {
            Some(rest) => memchr::memchr(b'/', rest).and_then(|at| rest.get(at..)).unwrap_or(b"/"),
            None => self.target,
        };
        target.split(|byte| *byte == b'?').next().unwrap_or_default()
    }
}

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub fields: Fields,
    pub framing: Framing,
    pub keep_alive: bool,
}

impl Response {
    /// `head_only`: it answers a HEAD.
    pub fn parse(head: &[u8], head_only: bool) -> Result<Self> {
        let mut lines = Lines(head);
        let line = lines.next().unwrap_or(Err(Malformed("no status line")))?;
        let (version, rest) = line.split_at_checked(9).ok_or(Malformed("status line is short"))?;
        let version = parse_version(version.strip_suffix(b" ").unwrap_or_default())?;
        let (code, reason) = rest.split_at_checked(3).ok_or(Malformed("status line is short"))?;
        let status = digits(code).filter(|code| (100..=999).contains(code));
        let status = status.ok_or(Malformed("status is not three digits"))? as u16;
        // RFC 9112 4: the space is there even when the reason is not; many leave it out, and nobody is confused.
        if !(reason.is_empty() || reason.starts_with(b" ")) || !reason.iter().all(|byte| is_text(*byte)) {
            return Err(Malformed("reason phrase"));
        }
        let fields = read_fields(lines)?;
        let bodiless = head_only || status < 200 || matches!(status, 204 | 304);
        let framing = match fields.framing(version, Framing::UntilClose)? {
            // RFC 9112 6.1: no transfer coding in a 1xx or 204.
            Framing::Chunked if status < 200 || status == 204 => {
                return Err(Malformed("transfer-encoding without a body"));
            }
            _ if bodiless => Framing::None,
            framing => framing,
        };
        let keep_alive = fields.persists(version) && framing != Framing::UntilClose;
        Ok(Self { status, framing, keep_alive, fields })
    }
}

/// Names and values of a head, for telling about it. The head has been parsed before.
pub fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    Lines(head).skip(1).filter_map(|line| split_field(line.ok()?).ok())
}

/// One line of a trailer section.
pub fn check_trailer(line: &[u8]) -> Result<()> {
    let (name, _) = split_field(line)?;
    let framing = ["content-length", "transfer-encoding", "host"];
    match framing.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes())) {
        // RFC 9110 6.5.1.
        true => Err(Malformed("a framing or routing field in the trailers")),
        false => Ok(()),
    }
}

fn read_fields(lines: Lines) -> Result<Fields> {
    let mut fields = Fields::default();
    for line in lines {
        let (name, value) = split_field(line?)?;
        fields.note(name, value)?;
    }
    Ok(fields)
}

/// The lines of a head up to its empty one.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        let lf = memchr::memchr(b'\n', self.0)?;
        let (line, rest) = self.0.split_at_checked(lf + 1)?;
        self.0 = rest;
        match line.strip_suffix(b"\r\n") {
            Some([]) => None,
            Some(line) => Some(Ok(line)),
            None => Some(Err(Malformed("a line that ends with a bare LF"))),
        }
    }
}

fn split_field(line: &[u8]) -> Result<(&[u8], &[u8])> {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Err(Malformed("a folded line"));
    }
    let colon = memchr::memchr(b':', line).ok_or(Malformed("a field without a colon"))?;
    let (name, rest) = line.split_at_checked(colon).ok_or(Malformed("a field without a colon"))?;
    if !is_token(name) {
        return Err(Malformed("a field name that is not a token"));
    }
    let value = trim(rest.get(1..).unwrap_or_default());
    match value.iter().all(|byte| is_text(*byte)) {
        true => Ok((name, value)),
        false => Err(Malformed("a control character in a field")),
    }
}

fn check_target(method: &[u8], target: &[u8]) -> Result<()> {
    if target.is_empty() || !target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#') {
        return Err(Malformed("a request target that is not a URI"));
    }
    match target {
        [b'/', ..] if method != b"CONNECT" => Ok(()),
        b"*" if method == b"OPTIONS" => Ok(()),
        _ if method == b"CONNECT" && memchr::memchr(b':', target).is_some() => Ok(()),
        _ if target.starts_with(b"http://") || target.starts_with(b"https://") => Ok(()),
        _ => Err(Malformed("a request target of no known form")),
    }
}

fn parse_version(word: &[u8]) -> Result<Version> {
    match word {
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        _ => Err(Malformed("not HTTP/1.0 or HTTP/1.1")),
    }
}

/// Decimal digits and nothing else, within 63 bits.
pub fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 18 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

fn has_word(list: &[u8], word: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|item| trim(item).eq_ignore_ascii_case(word))
}

fn trim(value: &[u8]) -> &[u8] {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    value.get(start..end).unwrap_or_default()
}

/// RFC 9110 5.6.2.
fn is_token(name: &[u8]) -> bool {
    !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// RFC 9110 5.5, obs-text included.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(head: &str) -> &'static str {
        Request::parse(head.as_bytes()).err().map_or("", |malformed| malformed.0)
    }

    #[test]
    fn a_request_is_read_with_its_path_and_framing() {
        let head = b"POST http://a.example:80/x/y?z=1 HTTP/1.1\r\nHost: a.example:80\r\ncontent-LENGTH:  12 \r\nConnection: foo, Close\r\n\r\n";
        let request = Request::parse(head).unwrap();
        assert_eq!((request.method, request.path()), (&b"POST"[..], &b"/x/y"[..]));
        assert_eq!((request.framing, request.keep_alive), (Framing::Length(12), false));
        assert_eq!(head_end(&[head, &b"rest"[..]].concat()), Some(head.len()));
        assert_eq!((0..head.len()).find_map(|n| head_end(&head[..n])), None);
    }

    #[test]
    fn what_smuggles_is_refused_by_name() {
        let cases = [
            ("GET / HTTP/1.1\r\n\r\n", "no host"),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "host twice"),
            ("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", "a line that ends with a bare LF"),
            ("GET / HTTP/1.1\r\nHost: a\r\n\n", "a line that ends with a bare LF"),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "request line is not three words"),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", "not HTTP/1.0 or HTTP/1.1"),
            ("GET /#a HTTP/1.1\r\nHost: a\r\n\r\n", "a request target that is not a URI"),
            ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", "a request target of no known form"),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", "a field name that is not a token"),
            ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", "a folded line"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", "a control character in a field"),
            ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", "a control character in a field"),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
                "content-length twice",
            ),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n", "content-length is not a number"),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n", "content-length is not a number"),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", "content-length is not a number"),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
                "transfer-encoding is not chunked",
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                "transfer-encoding twice",
            ),
            (
                "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
                "both content-length and transfer-encoding",
            ),
            ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "transfer-encoding in HTTP/1.0"),
        ];
        for (head, expected) in cases {
            assert_eq!(why(head), expected, "{head:?}");
        }
        assert_eq!(why("GET / HTTP/1.0\r\n\r\n"), "");
    }

    #[test]
    fn a_response_is_framed_by_what_it_answers() {
        let parse = |text: &str, head_only| Response::parse(text.as_bytes(), head_only).unwrap();
        let with_length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(parse(with_length, false).framing, Framing::Length(5));
        assert_eq!(parse(with_length, true).framing, Framing::None);
        let bare = parse("HTTP/1.1 200\r\n\r\n", false);
        assert_eq!((bare.framing, bare.keep_alive), (Framing::UntilClose, false));
        assert_eq!(
            parse("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false).framing,
            Framing::None
        );
        let odd = [
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
        ];
        assert!(odd.iter().all(|text| Response::parse(text.as_bytes(), false).is_err()));
    }
}
