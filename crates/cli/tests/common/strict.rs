//! A reader of HTTP/1.1 of the tests' own, written from RFC 9112 without a look at Fourfold's: it takes what a strict
//! sender may send and nothing else. What two servers could read in two ways is [`Read::Broken`].

/// A request or a response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Method, target, version; or version, status, reason.
    pub line: [String; 3],
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub chunked: bool,
    pub trailers: Vec<(String, String)>,
}

impl Message {
    pub fn method(&self) -> &str {
        &self.line[0]
    }
    pub fn target(&self) -> &str {
        &self.line[1]
    }
    pub fn status(&self) -> u16 {
        self.line[1].parse().unwrap_or(0)
    }

    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |field| field.0 == name).map(|field| field.1.as_str())
    }

    /// Of the only field of this name.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut all = self.all(name);
        let first = all.next();
        assert!(all.next().is_none(), "{name} is there twice: {self:?}");
        first
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// And how many bytes were its.
    Whole(Box<Message>, usize),
    /// What there is may be the beginning of one.
    Partial,
    Broken(&'static str),
}

type Parsed<T> = Result<T, Read>;

/// How much a sender may do beyond what a proxy should: all that RFC 9112 allows and that has one meaning only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rules {
    /// Of a proxy: HTTP/1.1 in its plainest form.
    Sent,
    /// Of anybody: HTTP/1.0 too, absolute targets, empty lines in front, chunk extensions, codings in any case.
    Received,
}

pub fn read_request(bytes: &[u8]) -> Read {
    request(bytes, Rules::Sent).unwrap_or_else(|other| other)
}

/// As [`read_request`], of somebody who makes use of what the RFC allows.
pub fn read_any_request(bytes: &[u8]) -> Read {
    let start = (0..2).fold(0, |at, _| at + if bytes[at..].starts_with(b"\r\n") { 2 } else { 0 });
    match request(&bytes[start..], Rules::Received).unwrap_or_else(|other| other) {
        Read::Whole(message, used) => Read::Whole(message, start + used),
        other => other,
    }
}

/// A response to `method`; `ended`: the connection has.
pub fn read_response(bytes: &[u8], method: &str, ended: bool) -> Read {
    response(bytes, method, ended, Rules::Sent).unwrap_or_else(|other| other)
}

/// As [`read_response`], of a server that makes use of what the RFC allows.
pub fn read_any_response(bytes: &[u8], method: &str, ended: bool) -> Read {
    response(bytes, method, ended, Rules::Received).unwrap_or_else(|other| other)
}

/// Everything that a server was sent over one connection. The last message may be unfinished, nothing may be broken.
pub fn read_requests(mut bytes: &[u8]) -> Result<(Vec<Message>, usize), &'static str> {
    let mut all = Vec::new();
    loop {
        match read_request(bytes) {
            Read::Whole(message, used) => {
                all.push(*message);
                bytes = &bytes[used..];
            }
            Read::Partial => return Ok((all, bytes.len())),
            Read::Broken(why) => return Err(why),
        }
    }
}

fn ensure(holds: bool, why: &'static str) -> Parsed<()> {
    if holds { Ok(()) } else { Err(Read::Broken(why)) }
}

fn request(bytes: &[u8], rules: Rules) -> Parsed<Read> {
    let (line, at) = line(bytes, 0)?;
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    ensure(words.len() == 3, "a request line without exactly two spaces")?;
    ensure(is_token(words[0]), "a method that is no token")?;
    ensure(words[1].iter().all(|byte| (0x21..0x7f).contains(byte)), "a target with odd bytes")?;
    let absolute = |scheme: &[u8]| {
        rules == Rules::Received
            && words[1].len() > scheme.len()
            && words[1][..scheme.len()].eq_ignore_ascii_case(scheme)
    };
    let path = words[1].starts_with(b"/") || absolute(b"http://") || absolute(b"https://");
    ensure(path || (words[0] == b"OPTIONS" && words[1] == b"*"), "a target that is no path")?;
    ensure(!words[1].contains(&b'#'), "a fragment")?;
    let old = rules == Rules::Received && words[2] == b"HTTP/1.0";
    ensure(words[2] == b"HTTP/1.1" || old, "another version than 1.1")?;
    let mut message =
        Message { line: [text(words[0]), text(words[1]), text(words[2])], ..Message::default() };
    let at = fields(bytes, at, &mut message.fields)?;
    let hosts = message.all("host").count();
    ensure(hosts == 1 || (old && hosts == 0), "not exactly one Host")?;
    let host = message.all("host").next().unwrap_or(if old { "none" } else { "" });
    ensure(!host.is_empty() && !host.contains(|c: char| " ,/?#@\\\"<>".contains(c)), "an odd Host")?;
    let framing = framing(&message, rules)?;
    ensure(!old || !matches!(framing, Framing::Chunked), "chunks in HTTP/1.0")?;
    let used = match framing {
        Framing::Chunked => chunks(bytes, at, &mut message, rules)?,
        Framing::Length(length) => take(bytes, at, length, &mut message)?,
        Framing::Neither => at,
    };
    Ok(Read::Whole(Box::new(message), used))
}

fn response(bytes: &[u8], method: &str, ended: bool, rules: Rules) -> Parsed<Read> {
    let (line, at) = line(bytes, 0)?;
    let old = rules == Rules::Received && line.starts_with(b"HTTP/1.0 ");
    ensure(line.len() >= 12 && (old || line.starts_with(b"HTTP/1.1 ")), "no HTTP/1.1 status line")?;
    let (status, reason) = line[9..].split_at(3);
    ensure(status.iter().all(u8::is_ascii_digit) && status[0] != b'0', "no status")?;
    ensure(reason.is_empty() || reason[0] == b' ', "no space behind the status")?;
    ensure(is_text(reason), "an odd reason")?;
    let reason = text(reason).trim_start().to_owned();
    let mut message = Message { line: ["HTTP/1.1".into(), text(status), reason], ..Message::default() };
    let at = fields(bytes, at, &mut message.fields)?;
    let framing = framing(&message, rules)?;
    ensure(!old || !matches!(framing, Framing::Chunked), "chunks in HTTP/1.0")?;
    let code = message.status();
    if code < 200 || code == 204 {
        let none = rules == Rules::Received && matches!(framing, Framing::Length(0));
        ensure(none || matches!(framing, Framing::Neither), "content announced where none can be")?;
    }
    let used = match framing {
        _ if code < 200 || code == 204 || code == 304 || method == "HEAD" => at,
        Framing::Chunked => chunks(bytes, at, &mut message, rules)?,
        Framing::Length(length) => take(bytes, at, length, &mut message)?,
        Framing::Neither => {
            ensure(
                rules == Rules::Received || message.all("connection").any(|value| value == "close"),
                "no length and no close",
            )?;
            if !ended {
                return Err(Read::Partial);
            }
            message.body = bytes[at..].to_vec();
            bytes.len()
        }
    };
    Ok(Read::Whole(Box::new(message), used))
}

enum Framing {
    Neither,
    Length(usize),
    Chunked,
}

fn framing(message: &Message, rules: Rules) -> Parsed<Framing> {
    let lengths: Vec<&str> = message.all("content-length").collect();
    let codings: Vec<&str> = message.all("transfer-encoding").collect();
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok(Framing::Neither),
        ([length], []) => {
            ensure(
                !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()),
                "a length that is no number",
            )?;
            length.parse().map(Framing::Length).map_err(|_| Read::Broken("a length beyond all bounds"))
        }
        ([], ["chunked"]) => Ok(Framing::Chunked),
        ([], [coding]) if rules == Rules::Received && coding.eq_ignore_ascii_case("chunked") => {
            Ok(Framing::Chunked)
        }
        _ => Err(Read::Broken("framing in more than one way")),
    }
}

/// A line without its CR LF, and where the next begins.
fn line(bytes: &[u8], at: usize) -> Parsed<(&[u8], usize)> {
    let rest = &bytes[at..];
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
        ensure(!rest[..rest.len().saturating_sub(1)].contains(&b'\r'), "a CR alone")?;
        return Err(Read::Partial);
    };
    ensure(end > 0 && rest[end - 1] == b'\r', "an LF alone")?;
    let line = &rest[..end - 1];
    ensure(!line.contains(&b'\r'), "a CR alone")?;
    Ok((line, at + end + 1))
}

fn fields(bytes: &[u8], mut at: usize, into: &mut Vec<(String, String)>) -> Parsed<usize> {
    loop {
        let (text_of_line, next) = line(bytes, at)?;
        at = next;
        if text_of_line.is_empty() {
            return Ok(at);
        }
        let Some(colon) = text_of_line.iter().position(|byte| *byte == b':') else {
            return Err(Read::Broken("a field without a colon"));
        };
        let (name, value) = (&text_of_line[..colon], text_of_line[colon + 1..].trim_ascii());
        ensure(is_token(name), "a field name that is no token")?;
        ensure(is_text(value), "a field value with odd bytes")?;
        into.push((text(name).to_ascii_lowercase(), text(value)));
    }
}

fn take(bytes: &[u8], at: usize, length: usize, message: &mut Message) -> Parsed<usize> {
    let end = at.checked_add(length).ok_or(Read::Broken("a length beyond all bounds"))?;
    message.body = bytes.get(at..end).ok_or(Read::Partial)?.to_vec();
    Ok(end)
}

fn chunks(bytes: &[u8], mut at: usize, message: &mut Message, rules: Rules) -> Parsed<usize> {
    message.chunked = true;
    loop {
        let (mut size, next) = line(bytes, at)?;
        if rules == Rules::Received {
            ensure(is_text(size), "odd bytes behind a chunk size")?;
            let end = size.iter().position(|byte| b"; \t".contains(byte)).unwrap_or(size.len());
            let behind = size[end..].trim_ascii();
            ensure(end == size.len() || behind.starts_with(b";"), "no semicolon behind a chunk size")?;
            size = &size[..end];
        }
        let digits = !size.is_empty() && size.len() <= 16 && size.iter().all(u8::is_ascii_hexdigit);
        ensure(digits, "an odd chunk size")?;
        let size = usize::from_str_radix(&text(size), 16).map_err(|_| Read::Broken("an odd chunk size"))?;
        ensure(size < usize::MAX / 4, "a chunk beyond all bounds")?;
        if size == 0 {
            return fields(bytes, next, &mut message.trailers);
        }
        message.body.extend_from_slice(bytes.get(next..next + size).ok_or(Read::Partial)?);
        match bytes.get(next + size..next + size + 2) {
            None => return Err(Read::Partial),
            Some(end) => ensure(end == b"\r\n", "a chunk that does not end where it says")?,
        }
        at = next + size + 2;
    }
}

fn is_token(bytes: &[u8]) -> bool {
    let mark = |byte: &u8| b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || mark(byte))
}

fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f))
}

/// Every byte its own character, so that nothing is lost.
fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_right() {
        let bytes = b"POST /a HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX: y\r\n\r\nGET";
        let Read::Whole(message, used) = read_request(bytes) else { panic!() };
        assert_eq!((message.text().as_str(), used), ("hi", bytes.len() - 3));
        assert_eq!(message.trailers, [("x".into(), "y".into())]);
        for end in 0..used {
            assert_eq!(read_request(&bytes[..end]), Read::Partial, "{end}");
        }
    }

    #[test]
    fn breaks_on_what_is_not() {
        for bad in [
            "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\n",
        ] {
            assert!(matches!(read_request(bad.as_bytes()), Read::Broken(_)), "{bad:?}");
        }
    }
}
