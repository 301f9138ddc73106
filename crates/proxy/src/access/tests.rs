use super::*;
use serde_json::Value;
use std::collections::HashSet;

const UNIX_US: i64 = 1_795_083_072_000_042;

fn record() -> Record<'static> {
    Record {
        started_us: 5,
        listener: "edge",
        route: "api",
        client: Some("2001:db8::7".parse().unwrap()),
        peer: Some("10.0.0.9:40000".parse().unwrap()),
        method: b"GET",
        host: b"example.com",
        path: b"/v1/x",
        query: Some(b"a=1&b"),
        version: "HTTP/1.1",
        status: Some(200),
        received: Bytes { head: 120, body: 0 },
        sent: Bytes { head: 180, body: 1024 },
        phases: Phases {
            request: Some(10),
            queue: Some(0),
            connect: Some(250),
            response: Some(1800),
            body: Some(40),
            total: 2100,
        },
        pool: "chat",
        server: Some("10.0.1.1:9000".parse().unwrap()),
        source: Some("10.0.0.10:32768".parse().unwrap()),
        reused: false,
        tries: 1,
        ending: Ending::Ok,
        request_id: b"01J",
        referer: b"https://example.com/",
        user_agent: b"curl/8.5.0",
    }
}

fn line(format: Format, record: &Record<'_>) -> String {
    let mut out = Vec::new();
    format.line(record, UNIX_US, &mut out);
    let text = String::from_utf8(out).unwrap();
    let line = text.strip_suffix('\n').expect("ends its line");
    assert!(line.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{line:?}");
    line.to_owned()
}

#[test]
fn a_line_of_json() {
    assert_eq!(
        line(Format::Json, &record()),
        concat!(
            r#"{"time":"2026-11-19T10:11:12.000042Z","listener":"edge","route":"api","client":"2001:db8::7","#,
            r#""peer":"10.0.0.9:40000","method":"GET","host":"example.com","path":"/v1/x","query":"a=1&b","#,
            r#""version":"HTTP/1.1","status":200,"received_head":120,"received_body":0,"sent_head":180,"#,
            r#""sent_body":1024,"request_us":10,"queue_us":0,"connect_us":250,"response_us":1800,"body_us":40,"#,
            r#""total_us":2100,"pool":"chat","server":"10.0.1.1:9000","source":"10.0.0.10:32768","reused":false,"#,
            r#""tries":1,"ending":"ok","ending_code":"--","request_id":"01J","referer":"https://example.com/","#,
            r#""user_agent":"curl/8.5.0"}"#
        )
    );
}

#[test]
fn a_combined_line() {
    assert_eq!(
        line(Format::Combined, &record()),
        concat!(
            r#"2001:db8::7 - - [19/Nov/2026:10:11:12 +0000] "GET /v1/x?a=1&b HTTP/1.1" 200 1024 "https://example.com/" "#,
            r#""curl/8.5.0" host="example.com" listener="edge" route="api" peer=10.0.0.9:40000 id="01J" pool="chat" "#,
            r#"server=10.0.1.1:9000 source=10.0.0.10:32768 reused=0 tries=1 ending=-- reason=ok received_head=120 "#,
            r#"received_body=0 sent_head=180 request_us=10 queue_us=0 connect_us=250 response_us=1800 body_us=40 "#,
            r#"total_us=2100"#
        )
    );
}

/// Which keys there are does not depend on what is known.
#[test]
fn an_empty_record_has_the_same_fields() {
    let empty = Record { ending: Ending::HeadTimeout, ..Record::default() };
    let keys = |record: &Record<'_>| match serde_json::from_str(&line(Format::Json, record)).unwrap() {
        Value::Object(object) => object.keys().cloned().collect::<Vec<_>>(),
        other => panic!("{other}"),
    };
    assert_eq!(keys(&empty), keys(&record()));
    let value: Value = serde_json::from_str(&line(Format::Json, &empty)).unwrap();
    assert!(value["status"].is_null() && value["query"].is_null() && value["connect_us"].is_null());
    assert_eq!(
        (value["ending"].as_str(), value["ending_code"].as_str()),
        (Some("request_head_timeout"), Some("cR"))
    );
    assert_eq!(
        fields(&line(Format::Combined, &empty)).len(),
        fields(&line(Format::Combined, &record())).len()
    );
    assert!(
        line(Format::Combined, &empty)
            .starts_with("- - - [19/Nov/2026:10:11:12 +0000] \"-\" - 0 \"-\" \"-\" ")
    );
}

#[test]
fn a_line_of_tcplog() {
    let whole = line(Format::Tcplog, &record());
    let wanted = "10.0.0.9:40000 [19/Nov/2026:10:11:12.000] edge chat/10.0.1.1:9000 0/250/2100 1024 -- \
                  received_body=0 source=10.0.0.10:32768 tries=1 reason=ok";
    assert_eq!(whole, wanted);
    let refused = Record {
        pool: "a b\n",
        server: None,
        source: None,
        phases: Phases { total: 7, ..Phases::default() },
        ending: Ending::NoTuple,
        ..record()
    };
    let refused = line(Format::Tcplog, &refused);
    assert!(refused.contains(r" edge a\x20b\x0a/- -1/-1/7 1024 RP "), "{refused}");
    let empty = line(Format::Tcplog, &Record::default());
    assert_eq!(fields(&empty).len(), fields(&whole).len(), "{empty}");
    let long = Record { listener: &"x".repeat(1 << 20), pool: &"\0".repeat(1 << 20), ..record() };
    assert!(line(Format::Tcplog, &long).len() < 1 << 10);
}

#[test]
fn an_empty_query_is_not_none() {
    let record = Record { query: Some(b""), ..record() };
    assert!(line(Format::Json, &record).contains(r#""query":"","#));
    assert!(line(Format::Combined, &record).contains("/v1/x? HTTP/1.1"));
}

/// Splits at spaces outside of quotes and brackets, as tools do.
fn fields(line: &str) -> Vec<String> {
    let (mut fields, mut until) = (vec![String::new()], None);
    for char in line.chars() {
        match (until, char) {
            (None, ' ') => {
                fields.push(String::new());
                continue;
            }
            (None, '"') => until = Some('"'),
            (None, '[') => until = Some(']'),
            (Some(end), char) if char == end => until = None,
            _ => {}
        }
        fields.last_mut().unwrap().push(char);
    }
    assert_eq!(until, None, "{line}");
    fields
}

/// Reverses `\xHH`.
fn unescaped(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        if *first == b'\\' {
            assert_eq!(behind[0], b'x', "{text}");
            bytes.push(u8::from_str_radix(std::str::from_utf8(&behind[1..3]).unwrap(), 16).unwrap());
            rest = &behind[3..];
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    bytes
}

/// Every byte that a peer can choose, in every field that it can choose, in surroundings that invite a mistake.
#[test]
fn no_byte_leaves_its_field() {
    let usual = fields(&line(Format::Combined, &record())).len();
    for byte in 0..=255u8 {
        for hostile in [vec![byte], vec![byte; 3], [b"a\"\\", &[byte][..], b"\\\" 200 \r\n{}"].concat()] {
            let record = Record {
                method: &hostile,
                host: &hostile,
                path: &hostile,
                query: Some(&hostile),
                request_id: &hostile,
                referer: &hostile,
                user_agent: &hostile,
                ..record()
            };
            let value: Value = serde_json::from_str(&line(Format::Json, &record)).unwrap();
            for key in ["method", "host", "path", "query", "request_id", "referer", "user_agent"] {
                let told: Vec<u8> = value[key].as_str().unwrap().chars().map(|char| char as u8).collect();
                assert_eq!(told, hostile, "{key}");
                assert!(value[key].as_str().unwrap().chars().all(|char| u32::from(char) < 256));
            }
            let text = line(Format::Combined, &record);
            let parts = fields(&text);
            assert_eq!(parts.len(), usual, "{text}");
            let inside = |part: &str| unescaped(part.trim_matches('"'));
            let request: Vec<&str> = parts[4].trim_matches('"').splitn(3, ' ').collect();
            assert_eq!((unescaped(request[0]), request[2]), (hostile.clone(), "HTTP/1.1"), "{text}");
            assert_eq!((inside(&parts[7]), inside(&parts[8])), (hostile.clone(), hostile), "{text}");
        }
    }
}

#[test]
fn names_from_the_configuration_are_escaped_as_well() {
    let record = Record { listener: "e\"d\nge", route: "ä", pool: "a b", ..record() };
    let value: Value = serde_json::from_str(&line(Format::Json, &record)).unwrap();
    assert_eq!(value["listener"], "e\"d\nge");
    assert!(line(Format::Combined, &record).contains(r#"listener="e\x22d\x0age" route="\xc3\xa4""#));
}

#[test]
fn long_fields_are_cut_with_a_mark_that_no_peer_can_write() {
    let long = b"x".repeat(USER_AGENT_BYTES_MAX + 1);
    let whole = &long[..USER_AGENT_BYTES_MAX];
    let cut = Record { user_agent: &long, ..record() };
    let value: Value = serde_json::from_str(&line(Format::Json, &cut)).unwrap();
    assert_eq!(value["user_agent"], format!("{}…", "x".repeat(USER_AGENT_BYTES_MAX)));
    assert!(line(Format::Combined, &cut).contains("x\\...\" host="));
    let exact = Record { user_agent: whole, referer: b"\\...", host: "…".as_bytes(), ..record() };
    assert!(!line(Format::Json, &exact).contains("\\u2026"));
    assert!(!line(Format::Combined, &exact).contains("\\..."));
}

/// A turn's lines are handed over when they pass this, so that no single line may be near it.
#[test]
fn the_longest_line_is_bounded() {
    let (bytes, text) = (vec![0; 1 << 20], "\0".repeat(1 << 20));
    let number = Some(u64::MAX);
    let address = Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap());
    let worst = Record {
        listener: &text,
        route: &text,
        pool: &text,
        version: &text,
        client: Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap()),
        peer: address,
        server: address,
        source: address,
        method: &bytes,
        host: &bytes,
        path: &bytes,
        query: Some(&bytes),
        request_id: &bytes,
        referer: &bytes,
        user_agent: &bytes,
        status: Some(u16::MAX),
        tries: u32::MAX,
        received: Bytes { head: u64::MAX, body: u64::MAX },
        sent: Bytes { head: u64::MAX, body: u64::MAX },
        phases: Phases {
            request: number,
            queue: number,
            connect: number,
            response: number,
            body: number,
            total: u64::MAX,
        },
        ..Record::default()
    };
    for format in [Format::Json, Format::Combined] {
        let len = line(format, &worst).len();
        assert!((8 << 10..32 << 10).contains(&len), "{format:?}: {len} bytes");
    }
}

#[test]
fn endings_have_codes_and_names_of_their_own() {
    let codes: HashSet<_> = Ending::ALL.iter().map(|ending| ending.code()).collect();
    let names: HashSet<_> = Ending::ALL.iter().map(|ending| ending.name()).collect();
    assert_eq!((codes.len(), names.len()), (Ending::ALL.len(), Ending::ALL.len()));
    assert!(codes.iter().all(|code| code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_graphic())));
    assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')));
    assert_eq!(Ending::default().code(), "--");
}
