//! What `v1` promises to clients of another age.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

use fourfold_api::v1::{
    Destination, Event, EventKind, Fill, Flow, Headroom, Instance, PinMode, ServerState, Severity, Source,
};
use fourfold_api::{Problem, v1};
use serde_json::json;

#[test]
fn what_a_newer_instance_adds_is_ignored() {
    let text = json!({
        "name": "edge", "version": "9.0.0", "pid": 7, "config": null, "started_at_ms": 1, "uptime_ms": 2, "engine": "uring",
        "shards": 4, "connections": 5, "max_connections": 6, "draining": false, "colour": "green"
    });
    let instance: Instance = serde_json::from_value(text).unwrap();
    assert_eq!((instance.pid, instance.shards), (7, 4));
}

#[test]
fn a_name_that_is_not_known_is_read_as_other() {
    assert_eq!(serde_json::from_value::<ServerState>(json!("on-holiday")).unwrap(), ServerState::Other);
    assert_eq!(serde_json::from_value::<EventKind>(json!("meteorite")).unwrap(), EventKind::Other);
}

#[test]
fn a_misspelt_question_is_refused() {
    assert!(serde_json::from_value::<v1::TuplesQuery>(json!({ "pol": "chat" })).is_err());
}

/// Written once; a change of these lines is a change of the version.
#[test]
fn the_shape_of_tuples_stands() {
    let headroom = Headroom { total: 10, used: 4, free: 3, quarantined: 2, foreign: 1 };
    let flow = Flow { leases_per_s: 1.5, growth_per_s: 0.5, exhausted_in_ms: Some(6000) };
    let source = Source { address: "10.0.0.1".parse().ok(), sources: 1, headroom, flow, state: Fill::Half };
    let destination = Destination {
        address: "10.0.1.1:9000".parse().unwrap(),
        pools: vec!["chat".into()],
        mode: PinMode::Late,
        ports: "1-10".into(),
        headroom,
        flow,
        state: Fill::Half,
        sources: vec![source],
    };
    let numbers = json!({
        "total": 10, "used": 4, "free": 3, "quarantined": 2, "foreign": 1,
        "leases_per_s": 1.5, "growth_per_s": 0.5, "exhausted_in_ms": 6000, "state": "half"
    });
    let with = |more: serde_json::Value| {
        let mut all = numbers.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let source = with(json!({ "address": "10.0.0.1", "sources": 1 }));
    let expected = with(json!({
        "address": "10.0.1.1:9000", "pools": ["chat"], "mode": "late", "ports": "1-10", "sources": [source]
    }));
    let written = serde_json::to_value(&destination).unwrap();
    assert_eq!(written, expected);
    assert_eq!(serde_json::from_value::<Destination>(written).unwrap(), destination);
}

#[test]
fn kinds_have_one_name() {
    for kind in [EventKind::AcceptQueueFull, EventKind::TcpMemoryPressure, EventKind::TuplesNear] {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
    let event = Event {
        id: 1,
        at_ms: 2,
        kind: EventKind::OrphanLimit,
        severity: Severity::Warning,
        of: vec![],
        counter: Some("TCPAbortOnMemory".into()),
        count: 3,
        message: "m".into(),
        remedy: vec![],
    };
    let written = serde_json::to_value(&event).unwrap();
    assert_eq!((&written["kind"], &written["severity"]), (&json!("orphan-limit"), &json!("warning")));
}

#[test]
fn problems_are_those_of_rfc_9457() {
    let problem = Problem::new(404, "no-such-path", "There is nothing here").detail("/x");
    let written = serde_json::to_value(&problem).unwrap();
    let expected = json!({ "type": "urn:fourfold:no-such-path", "title": "There is nothing here", "status": 404, "detail": "/x" });
    assert_eq!(written, expected);
    assert_eq!(problem.to_string(), "There is nothing here: /x");
}
