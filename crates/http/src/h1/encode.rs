//! Writing messages. The caller vouches for names and values, which come out of the parser or were checked with
//! [`super::is_token`] and [`super::is_field_value`].

/// Behind the data of each chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// RFC 9112 7.1: what stands before `len` bytes of data. Nothing for 0, which would end the body.
pub fn chunk_head(len: usize, out: &mut Vec<u8>) {
    if len == 0 {
        return;
    }
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4);
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(len >> (4 * digit)) & 15]);
    }
    out.extend_from_slice(b"\r\n");
}

/// The end of a chunked body. `trailers` are whole lines, as [`super::BodyReader::trailers`] has them.
pub fn last_chunk(trailers: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(trailers);
    out.extend_from_slice(b"\r\n");
}

pub fn decimal(mut n: u64, out: &mut Vec<u8>) {
    /// u64::MAX has 20 digits.
    const DIGITS_MAX: usize = 20;
    let mut digits = [b'0'; DIGITS_MAX];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (n % 10) as u8;
        n /= 10;
        used += 1;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[DIGITS_MAX - used..]);
}

pub fn field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

pub fn request_line(method: &[u8], path: &[u8], query: Option<&[u8]>, out: &mut Vec<u8>) {
    out.extend_from_slice(method);
    out.push(b' ');
    out.extend_from_slice(path);
    if let Some(query) = query {
        out.push(b'?');
        out.extend_from_slice(query);
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

pub fn status_line(status: u16, reason: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    decimal(u64::from(status), out);
    out.push(b' ');
    out.extend_from_slice(reason);
    out.extend_from_slice(b"\r\n");
}

/// The registered reason phrase (RFC 9110 15 and the registry); empty for what is not registered.
pub const fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        _ => reason_of_error(status),
    }
}

const fn reason_of_error(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers() {
        for n in [0, 1, 9, 10, 1_234_567_890, u64::MAX] {
            assert_eq!(written(|out| decimal(n, out)), n.to_string());
        }
        for n in [1, 15, 16, 255, 256, 65_536, usize::MAX] {
            assert_eq!(written(|out| chunk_head(n, out)), format!("{n:x}\r\n"));
        }
        assert_eq!(written(|out| chunk_head(0, out)), "", "a chunk of 0 would end the body");
    }

    #[test]
    fn lines() {
        assert_eq!(written(|out| request_line(b"GET", b"/a", Some(b"b"), out)), "GET /a?b HTTP/1.1\r\n");
        assert_eq!(written(|out| request_line(b"GET", b"/a", None, out)), "GET /a HTTP/1.1\r\n");
        assert_eq!(written(|out| status_line(404, b"Not Found", out)), "HTTP/1.1 404 Not Found\r\n");
        assert_eq!(written(|out| status_line(799, b"", out)), "HTTP/1.1 799 \r\n");
        assert_eq!(written(|out| last_chunk(b"a: b\r\n", out)), "0\r\na: b\r\n\r\n");
    }
}
