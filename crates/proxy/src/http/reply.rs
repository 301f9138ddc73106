//! Answers of our own: errors, redirects, fixed responses. Pure.

use super::head::{connection, length_field};
use fourfold_config::http::{ErrorFormat, Http};
use fourfold_http::h1::{self, FieldKind, Version, encode};

/// Why a request got an answer of ours, or none at all. One row per reason: what is answered, what is counted and logged, what
/// the user may do.
macro_rules! reasons {
    ($($variant:ident $status:literal $name:literal $explain:literal)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub(crate) enum Reason {
            $(#[doc = $explain] $variant,)*
            /// The request itself is wrong.
            Rejected(h1::Reject),
            /// What the server sent is not a response, or not one to this request.
            BadResponse(h1::Reject),
        }

        impl Reason {
            pub fn status(self) -> u16 {
                match self {
                    $(Self::$variant => $status,)*
                    Self::Rejected(reject) => reject.status(),
                    Self::BadResponse(_) => 502,
                }
            }

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Rejected(reject) | Self::BadResponse(reject) => reject.name(),
                }
            }

            pub fn explain(self) -> &'static str {
                match self {
                    $(Self::$variant => $explain,)*
                    Self::Rejected(reject) | Self::BadResponse(reject) => reject.explain(),
                }
            }
        }
    };
}

reasons! {
    NoRoute 404 "no_route" "no route takes this request"
    MethodUnsupported 405 "method_unsupported" "this method is not served by a reverse proxy"
    BodyTooLarge 413 "body_too_large" "the request's content is larger than body_bytes_max"
    RateLimited 429 "rate_limited" "more requests than the configured rate"
    HeaderTimeout 408 "header_timeout" "the request's head was not complete within header_timeout"
    BodyTimeout 408 "body_timeout" "nothing of the request's content came for body_timeout"
    NoServer 503 "no_server" "every server of the pool is down, full or unresolved"
    BreakerOpen 503 "breaker_open" "the servers failed too many requests and are left alone for a moment"
    QueueFull 503 "queue_full" "queue_max requests are waiting already"
    Tuples 503 "no_tuple" "every four-tuple to the servers is in use"
    Local 503 "local_shortage" "out of descriptors, memory or buffers"
    Attempts 502 "connect_failed" "connect_attempts paths to the servers failed"
    ServerClosed 502 "server_closed" "the server closed the connection before it answered"
    ServerReset 502 "server_reset" "the server reset the connection before it answered"
    ResponseTimeout 504 "response_timeout" "the server did not answer within response_timeout"
}

/// What an answer is written for.
pub(super) struct To {
    pub version: Version,
    /// A length is told, the content is not.
    pub head_only: bool,
    pub close: bool,
    pub json: bool,
    /// When it may come again (RFC 9110 10.2.3).
    pub retry_after_s: Option<u64>,
}

impl To {
    /// A client of whose request too little is known.
    pub const STRANGER: To =
        To { version: Version::Http11, head_only: false, close: true, json: false, retry_after_s: None };

    /// One whose head is not understood. RFC 9110 9.3.2: whatever else is wrong, HEAD gets no content.
    pub fn stranger(head: &[u8]) -> Self {
        Self { head_only: head.starts_with(b"HEAD "), ..Self::STRANGER }
    }

    pub fn of(request: &h1::Request, head: &[u8], close: bool) -> Self {
        let accept = request.field(FieldKind::Accept).map(|field| field.value.of(head)).unwrap_or_default();
        let json = memchr::memmem::find(accept, b"json").is_some();
        Self {
            version: request.version,
            head_only: request.method == h1::Method::Head,
            close,
            json,
            retry_after_s: None,
        }
    }
}

pub(super) fn error(http: &Http, reason: Reason, to: &To, out: &mut Vec<u8>) {
    let status = reason.status();
    encode::status_line(status, encode::reason(status).as_bytes(), out);
    if http.explain_errors {
        encode::field(b"X-Fourfold-Reason", reason.name().as_bytes(), out);
    }
    if let Some(seconds) = to.retry_after_s {
        out.extend_from_slice(b"Retry-After: ");
        encode::decimal(seconds, out);
        out.extend_from_slice(b"\r\n");
    }
    let (content_type, body) = match http.error_page(status) {
        Some(page) => (page.content_type.as_str(), page.bytes.to_vec()),
        None => generated(http.errors, reason, to.json, http.explain_errors),
    };
    out.extend_from_slice(b"Cache-Control: no-store\r\n");
    finish(content_type, &body, to, out);
}

/// A redirect or a fixed response.
pub(super) fn fixed(
    status: u16,
    location: Option<&[u8]>,
    content_type: &str,
    body: &[u8],
    to: &To,
    out: &mut Vec<u8>,
) {
    encode::status_line(status, encode::reason(status).as_bytes(), out);
    if let Some(location) = location {
        encode::field(b"Location", location, out);
    }
    finish(content_type, body, to, out);
}

fn finish(content_type: &str, body: &[u8], to: &To, out: &mut Vec<u8>) {
    if !body.is_empty() {
        encode::field(b"Content-Type", content_type.as_bytes(), out);
    }
    length_field(body.len() as u64, out);
    connection(to.close, to.version, out);
    out.extend_from_slice(b"\r\n");
    if !to.head_only {
        out.extend_from_slice(body);
    }
}

/// Nothing of the request is repeated: there is nothing to escape.
fn generated(
    format: ErrorFormat,
    reason: Reason,
    accepts_json: bool,
    explain: bool,
) -> (&'static str, Vec<u8>) {
    let status = reason.status();
    let title = encode::reason(status);
    let json = format == ErrorFormat::Json || (format == ErrorFormat::Auto && accepts_json);
    let detail = if explain { reason.explain() } else { "" };
    if json {
        let name = if explain { reason.name() } else { "" };
        let text = format!(
            "{{\"status\":{status},\"error\":\"{title}\",\"reason\":\"{name}\",\"detail\":\"{detail}\"}}\n"
        );
        return ("application/json", text.into_bytes());
    }
    match format {
        ErrorFormat::Text => {
            ("text/plain; charset=utf-8", format!("{status} {title}\n{detail}").into_bytes())
        }
        _ => {
            let text = format!(
                "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{status} {title}</title></head>\
                 <body><h1>{status} {title}</h1><p>{detail}</p></body></html>\n"
            );
            ("text/html; charset=utf-8", text.into_bytes())
        }
    }
}
