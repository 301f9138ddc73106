//! HTTP/1.1 as the judge reads it: small, strict, and nobody else's. Whatever is not plainly right is wrong.

use fourfold_base::Millis;

/// The head of a request or response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Head {
    pub line: String,
    fields: Vec<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Piece {
    Head(Head),
    Data(Vec<u8>),
    End,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Head,
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
}

/// Reads messages from one direction of a connection.
pub(super) struct Reader {
    bytes: Vec<u8>,
    state: State,
    /// When it was last fed.
    pub fed_at: Millis,
}

type Read<T> = Result<Option<T>, String>;

impl Reader {
    pub fn new() -> Self {
        Self { bytes: Vec::new(), state: State::Head, fed_at: 0 }
    }

    pub fn feed(&mut self, now: Millis, bytes: &[u8]) {
        self.fed_at = now;
        self.bytes.extend_from_slice(bytes);
    }

    /// Neither a message nor the beginning of one.
    pub fn is_between(&self) -> bool {
        self.state == State::Head && self.bytes.is_empty()
    }

    /// What is no message any more.
    pub fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// What has not been understood yet, to be shown.
    pub fn rest(&self) -> String {
        format!(
            "{:?}: {:?}",
            self.state,
            String::from_utf8_lossy(self.bytes.get(..300).unwrap_or(&self.bytes))
        )
    }

    /// The next piece, if it is there; `framing` tells what follows a head.
    pub fn next(&mut self, framing: impl FnOnce(&Head) -> Result<Framing, String>) -> Read<Piece> {
        loop {
            match self.state {
                State::Head => {
                    let Some(head) = self.head()? else { return Ok(None) };
                    self.state = match framing(&head)? {
                        Framing::None => State::Length(0),
                        Framing::Length(length) => State::Length(length),
                        Framing::Chunked => State::ChunkSize,
                        Framing::UntilClose => State::UntilClose,
                    };
                    return Ok(Some(Piece::Head(head)));
                }
                State::Length(0) => {
                    self.state = State::Head;
                    return Ok(Some(Piece::End));
                }
                State::Length(left) => {
                    let data = self.data(left);
                    self.state = State::Length(left - data.len() as u64);
                    return Ok(some(data));
                }
                State::UntilClose => return Ok(some(self.data(u64::MAX))),
                State::Chunk(0) => self.state = State::ChunkEnd,
                State::Chunk(left) => {
                    let data = self.data(left);
                    self.state = State::Chunk(left - data.len() as u64);
                    return Ok(some(data));
                }
                State::ChunkEnd => match self.line()? {
                    Some(line) if line.is_empty() => self.state = State::ChunkSize,
                    Some(line) => return Err(format!("{line:?} after a chunk")),
                    None => return Ok(None),
                },
                State::ChunkSize => {
                    let Some(line) = self.line()? else { return Ok(None) };
                    let digits = !line.is_empty() && line.len() <= 8;
                    let plain = digits && line.bytes().all(|byte| byte.is_ascii_hexdigit());
                    let size = u64::from_str_radix(&line, 16).ok().filter(|_| plain);
                    let size = size.ok_or_else(|| format!("chunk size {line:?}"))?;
                    self.state = if size == 0 { State::Trailers } else { State::Chunk(size) };
                }
                State::Trailers => match self.line()? {
                    Some(line) if line.is_empty() => self.state = State::Length(0),
                    Some(line) => drop(field(&line)?),
                    None => return Ok(None),
                },
            }
        }
    }

    /// FIN: whether the message that was being read is whole.
    pub fn end(&mut self) -> bool {
        std::mem::replace(&mut self.state, State::Head) == State::UntilClose
    }

    fn data(&mut self, most: u64) -> Vec<u8> {
        let count = most.min(self.bytes.len() as u64) as usize;
        self.bytes.drain(..count).collect()
    }

    fn line(&mut self) -> Read<String> {
        let Some(at) = self.bytes.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let line: Vec<u8> = self.bytes.drain(..=at).collect();
        let line = line.strip_suffix(b"\r\n").ok_or("a line without CR")?;
        match line.iter().all(|byte| (0x20..0x7F).contains(byte)) {
            true => Ok(Some(String::from_utf8_lossy(line).into_owned())),
            false => Err(format!("odd bytes in {:?}", String::from_utf8_lossy(line))),
        }
    }

    fn head(&mut self) -> Read<Head> {
        if !self.bytes.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            return Ok(None);
        }
        let mut head = Head { line: self.line()?.unwrap_or_default(), fields: Vec::new() };
        while let Some(line) = self.line()?.filter(|line| !line.is_empty()) {
            head.fields.push(field(&line)?);
        }
        Ok(Some(head))
    }
}

fn some(data: Vec<u8>) -> Option<Piece> {
    (!data.is_empty()).then_some(Piece::Data(data))
}

fn field(line: &str) -> Result<(String, String), String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    match line.split_once(':') {
        Some((name, value)) if !name.is_empty() && name.bytes().all(token) => {
            Ok((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()))
        }
        _ => Err(format!("field line {line:?}")),
    }
}

impl Head {
    /// The value of a field that is there once at most.
    pub fn only(&self, name: &str) -> Read<&str> {
        let mut values = self.fields.iter().filter(|field| field.0 == name).map(|field| field.1.as_str());
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(format!("{name} more than once")),
        }
    }

    pub fn number(&self, name: &str) -> Read<u64> {
        let Some(value) = self.only(name)? else { return Ok(None) };
        let plain = value.bytes().all(|byte| byte.is_ascii_digit());
        let number = value.parse().ok().filter(|_| plain);
        number.map(Some).ok_or_else(|| format!("{name}: {value:?}"))
    }

    pub fn says_close(&self) -> bool {
        let of = |field: &&(String, String)| field.0 == "connection";
        self.fields.iter().filter(of).any(|field| field.1.split(',').any(|option| option.trim() == "close"))
    }

    /// Of a response.
    pub fn status(&self) -> Result<u16, String> {
        let line = self.line.strip_prefix("HTTP/1.1 ").filter(|line| line.as_bytes().get(3) == Some(&b' '));
        let status = line.and_then(|line| line.get(..3)?.parse().ok());
        status.filter(|status| (100..600).contains(status)).ok_or_else(|| format!("status {:?}", self.line))
    }

    fn declared(&self) -> Read<Framing> {
        match (self.only("transfer-encoding")?, self.number("content-length")?) {
            (Some(_), Some(_)) => Err("both lengths".into()),
            (Some("chunked"), None) => Ok(Some(Framing::Chunked)),
            (Some(other), None) => Err(format!("transfer-encoding: {other}")),
            (None, Some(length)) => Ok(Some(Framing::Length(length))),
            (None, None) => Ok(None),
        }
    }

    /// RFC 9112 6.3, of a request.
    pub fn request_framing(&self) -> Result<Framing, String> {
        if !self.line.ends_with(" HTTP/1.1") {
            return Err(format!("request line {:?}", self.line));
        }
        self.only("host")?.ok_or("no host")?;
        Ok(self.declared()?.unwrap_or(Framing::None))
    }

    /// RFC 9112 6.3, of a response to such a request.
    pub fn response_framing(&self, head_only: bool, chunks: bool) -> Result<Framing, String> {
        let status = self.status()?;
        let declared = self.declared()?;
        // RFC 9110 8.6, RFC 9112 6.1
        if declared.is_some() && (status < 200 || status == 204) {
            return Err(format!("a length with status {status}"));
        }
        // RFC 9112 6.1: only a client that speaks HTTP/1.1 understands it.
        if declared == Some(Framing::Chunked) && !chunks {
            return Err("chunks for HTTP/1.0".into());
        }
        match status {
            100..200 | 204 | 304 => Ok(Framing::None),
            _ if head_only => Ok(Framing::None),
            _ => Ok(declared.unwrap_or(Framing::UntilClose)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(bytes: &[u8], step: usize) -> Result<Vec<Piece>, String> {
        let (mut reader, mut pieces) = (Reader::new(), Vec::new());
        for part in bytes.chunks(step) {
            reader.feed(0, part);
            while let Some(piece) = reader.next(|head| head.response_framing(false, true))? {
                pieces.push(piece);
            }
        }
        Ok(pieces)
    }

    #[test]
    fn messages_follow_each_other_however_they_are_cut() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n\
            2\r\nxy\r\n1\r\nz\r\n0\r\nA: b\r\n\r\nHTTP/1.1 204 \r\n\r\n";
        for step in 1..bytes.len() {
            let pieces = pieces(bytes, step).unwrap();
            let data: Vec<u8> = pieces
                .iter()
                .flat_map(|p| match p {
                    Piece::Data(data) => data.clone(),
                    _ => Vec::new(),
                })
                .collect();
            assert_eq!(data, b"abcxyz", "{step}");
            assert_eq!(pieces.iter().filter(|piece| **piece == Piece::End).count(), 3, "{step}");
        }
    }

    #[test]
    fn what_is_not_plainly_right_is_wrong() {
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nab\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
            "HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\n\r\n\r\n",
        ] {
            assert!(pieces(bad.as_bytes(), 7).is_err(), "{bad:?}");
        }
    }
}
