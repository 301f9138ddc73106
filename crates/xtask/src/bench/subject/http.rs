//! How the peers are configured for HTTP: upstream connections kept, nothing logged, no limit on requests per connection.

use super::{Size, haproxy_servers, nginx_servers};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;

pub fn nginx_config(size: Size, listen: SocketAddr, origins: &[SocketAddr], folder: &Path) -> String {
    // A worker has a descriptor table of its own.
    let (workers, shared) = match size {
        Size::OneThread => (1, ""),
        Size::Hold | Size::Fill | Size::Pairs => (6, " reuseport"),
    };
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
            proxy_read_timeout 1h;
        }}
    }}
}}
"
    )
}

pub fn haproxy_config(size: Size, listen: SocketAddr, origins: &[SocketAddr]) -> String {
    // It wants descriptors for two connections per client, which idle clients do not use.
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
    timeout server 1h
    timeout tunnel 1h
    timeout http-keep-alive 1h
    http-reuse always
frontend front
    bind {listen} backlog 65535
    maxconn {maxconn}
    default_backend back
backend back
{}",
        haproxy_servers(origins)
    )
}

pub fn envoy_filter() -> Value {
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
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "back", "timeout": "0s" } }]
            }] },
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" }
            }]
        }
    })
}
