//! How the peers are configured for HTTP: upstream connections kept, nothing logged, no limit on requests per connection.

use super::{Size, haproxy_servers, nginx_servers};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;

pub fn nginx_config(size: Size, listen: SocketAddr, origins: &[SocketAddr], folder: &Path) -> String {
    // A worker has a descriptor table of its own.
    let (workers, shared) = match size {
        Size::OneThread | Size::Faults => (1, ""),
        Size::Hold | Size::Fill | Size::Pairs => (6, " reuseport"),
    };
    // By itself it repeats no POST that it has sent (`non_idempotent`).
    let read_timeout = if size == Size::Faults { "1s" } else { "1h" };
    let (folder, servers) = (folder.display(), nginx_servers(origins));
    format!(
        "daemon off;
user root;
worker_processes {workers};
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 19900; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_timeout 1h;
    keepalive_requests 1000000000;
    map $http_upgrade $upstream_connection {{
        default upgrade;
        '' '';
    }}
    upstream back {{
       {servers}
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {listen}{shared} backlog=65535;
        location / {{
            proxy_pass http://back;
            proxy_http_version 1.1;
            proxy_set_header Connection $upstream_connection;
            proxy_set_header Upgrade $http_upgrade;
            proxy_connect_timeout 10s;
            proxy_read_timeout {read_timeout};
        }}
    }}
}}
"
    )
}

pub fn haproxy_config(size: Size, listen: SocketAddr, origins: &[SocketAddr]) -> String {
    // It wants descriptors for two connections per client, which idle clients do not use.
    let (server_timeout, repeats) = match size {
        Size::Faults => ("1s", HAPROXY_REPEATS),
        _ => ("1h", ""),
    };
    let maxconn = if size == Size::Hold { 19_000 } else { 9_900 };
    format!(
        "global
    nbthread 1
    no strict-limits
    maxconn {maxconn}
defaults
    mode http
    timeout connect 10s
    timeout client 1h
    timeout server {server_timeout}
    timeout tunnel 1h
    timeout http-keep-alive 1h
    http-reuse always
frontend front
    bind {listen} backlog 65535
    maxconn {maxconn}
    default_backend back
backend back
{repeats}{}",
        haproxy_servers(origins)
    )
}

/// On the other server, and no POST that may have been sent.
const HAPROXY_REPEATS: &str = "    option redispatch 1
    retries 2
    retry-on conn-failure empty-response response-timeout
    http-request disable-l7-retry if METH_POST
";

pub fn fourfold_config(engine: &str, listen: SocketAddr, origins: &[SocketAddr]) -> String {
    let server = |origin: &SocketAddr| format!("[[pool.server]]\naddress = \"{origin}\"\n");
    format!(
        "engine = \"{engine}\"
shards = 1
[[listener]]
name = \"front\"
bind = \"{listen}\"
mode = \"http\"
pool = \"back\"
[[pool]]
name = \"back\"
response_timeout = \"1s\"
{}",
        origins.iter().map(server).collect::<String>()
    )
}

/// Its retries do not tell methods apart, routes do.
fn envoy_routes(size: Size) -> Value {
    let route = |matches: Value, retry_on: &str| {
        json!({ "match": matches, "route": { "cluster": "back", "timeout": "0s", "retry_policy": {
            "retry_on": retry_on, "num_retries": 2, "per_try_timeout": "1s",
            "host_selection_retry_max_attempts": 3,
            "retry_host_predicate": [{
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": { "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate" }
            }]
        } } })
    };
    if size != Size::Faults {
        return json!([{ "match": { "prefix": "/" }, "route": { "cluster": "back", "timeout": "0s" } }]);
    }
    let get =
        json!({ "prefix": "/", "headers": [{ "name": ":method", "string_match": { "exact": "GET" } }] });
    json!([
        route(get, "connect-failure,reset,gateway-error"),
        route(json!({ "prefix": "/" }), "connect-failure")
    ])
}

pub fn envoy_filter(size: Size) -> Value {
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "front",
            "stream_idle_timeout": "0s",
            "upgrade_configs": [{ "upgrade_type": "websocket" }],
            "route_config": { "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": envoy_routes(size)
            }] },
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" }
            }]
        }
    })
}
