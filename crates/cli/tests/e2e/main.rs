//! The real binary against real peers: bytes, servers, tuples, limits, faults, wrong input, few privileges.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod bad_input;
mod bytes;
mod edge_log;
mod edge_log_tcp;
mod edge_proxy_protocol;
mod edge_rates;
mod explain;
mod faults;
mod faults_at_rate;
mod health_faults;
mod health_rules;
mod hosts;
mod http_clients;
mod http_compare;
mod http_corpus;
mod http_exchange;
mod http_features;
mod http_odd;
mod http_real;
mod http_servers;
mod http_slow;
mod limits;
mod load_http;
mod origin_http;
mod peers;
mod servers;
mod splice;
mod tuples;
mod unprivileged;
