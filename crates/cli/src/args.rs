//! The command line: the one definition from which parsing, help, the man page and completions derive.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::IpAddr;
use std::path::PathBuf;

#[derive(Parser)]
#[command(
    name = "fourfold",
    version,
    about = "A load balancer that never runs out of ports on the way to its backends"
)]
#[command(
    long_about = "Fourfold stands in front of a service, holds millions of connections on one port, and treats the \
                        four-tuple (source address, source port, destination address, destination port) as the resource that \
                        it is: allocated, accounted for, shown.\n\nExit status: 0 done, 1 failed, 2 wrong usage."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run the load balancer from a file or from flags
    #[command(
        after_help = "Examples:\n  fourfold run fourfold.toml\n  fourfold run --listen 0.0.0.0:8080 --to 10.0.1.1:9000 \
                            --source 10.0.0.10-10.0.0.25 --max-connections 1M\n\nSignals:\n  SIGTERM, SIGINT  stop accepting, \
                            drain until drain_timeout; a second one stops now\n  SIGUSR1          print counters and headroom\n  \
                            SIGUSR2          open access logs anew, after they were renamed"
    )]
    Run(RunArgs),
    /// Check a configuration and start nothing; exit status 0 valid, 1 errors, 2 usage
    #[command(
        after_help = "Examples:\n  fourfold check fourfold.toml\n  fourfold check fourfold.toml --explain \
                            http://api.example.com/v1/users --method POST --header 'X-Canary: 1'\n\nWith --explain the exit \
                            status is 0 when a route takes the request, 1 when none does."
    )]
    Check(CheckArgs),
    /// Run a backend to try things against: it echoes what it gets, or speaks HTTP
    #[command(
        after_help = "Paths in mode http:\n  /                   --bytes bytes            /echo      the request's body, as it comes\n  \
                            /bytes/N            N bytes                  /hash      length and SHA-256 of the body\n  \
                            /chunked/N          N bytes in chunks        /headers   what was received, as JSON\n  \
                            /delay/MS[/N]       N bytes after MS ms      /ws        WebSocket, echoes frames\n  \
                            /drip/N/MS          a byte every MS ms       /early     answers before the body\n  \
                            /status/CODE        that status              /trailers  chunks and trailer fields\n  \
                            /close              closes afterwards        /continue  100 Continue, asked for or not\n  \
                            /hints              103, then the answer\n\nSignals:\n  SIGUSR1  print counters"
    )]
    Origin(OriginArgs),
    /// Open and hold connections, or drive them, and measure
    #[command(subcommand)]
    Load(LoadCommand),
    /// See it all on loopback: an origin, the proxy, and more connections than one source has ports
    Demo(DemoArgs),
    /// Print the JSON Schema of the configuration
    Schema,
    /// Print the manual page (roff)
    Man,
    /// Print a completion script
    Completions {
        /// The shell to complete in
        shell: clap_complete::Shell,
    },
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq, Debug)]
pub enum EngineArg {
    /// io_uring where the kernel lets it, else epoll
    Auto,
    Uring,
    Epoll,
}

impl EngineArg {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Epoll => "epoll",
        }
    }
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq, Debug)]
pub enum SpliceArg {
    /// BPF where it is permitted and works, else copying
    Auto,
    /// BPF, or do not start
    Bpf,
    Off,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq, Debug)]
pub enum LogFormatArg {
    Human,
    Json,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq, Debug)]
pub enum LogLevelArg {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Args)]
pub struct LogArgs {
    /// How log lines look; overrides the file
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormatArg>,
    /// Least severity that is logged; overrides the file
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogLevelArg>,
}

#[derive(Args)]
pub struct RunArgs {
    /// Configuration (TOML, or the same as JSON); instead of it, --listen and --to
    #[arg(conflicts_with_all = ["listen", "to", "mode", "source"])]
    pub file: Option<PathBuf>,
    /// Address to listen on: ip:port or [v6]:port; may be repeated
    #[arg(long, value_name = "ADDR", requires = "to")]
    pub listen: Vec<String>,
    /// What is spoken on the listener: tcp or http
    #[arg(long, value_name = "MODE", default_value = "tcp")]
    pub mode: String,
    /// Server: ip:port, [v6]:port or host:port; may be repeated
    #[arg(long, value_name = "ADDR", requires = "listen", num_args = 1..)]
    pub to: Vec<String>,
    /// Source addresses towards the servers: ip, ip-ip or prefix/len; may be repeated
    #[arg(long, value_name = "SET")]
    pub source: Vec<String>,
    /// Connections to hold, such as 120_000 or 1M; descriptors, shards and memory follow from it
    #[arg(long, value_name = "N")]
    pub max_connections: Option<String>,
    /// Threads that serve; derived when left out
    #[arg(long, value_name = "N")]
    pub shards: Option<String>,
    /// How the kernel is spoken to
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<EngineArg>,
    /// Whether the kernel carries busy tunnels by itself; also goes before what FILE says
    #[arg(long, value_name = "HOW")]
    pub splice: Option<SpliceArg>,
    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Args)]
pub struct CheckArgs {
    /// Configuration to check
    pub file: PathBuf,
    /// Print diagnostics as JSON
    #[arg(long)]
    pub json: bool,
    /// Also ask this machine: are the addresses here, are the ports free, do names resolve
    #[arg(long)]
    pub online: bool,
    /// Say which listener, route and pool a request would take, and why not the others: a URL, or a path
    #[arg(long, value_name = "URL")]
    pub explain: Option<String>,
    /// The request's method
    #[arg(long, value_name = "METHOD", default_value = "GET", requires = "explain")]
    pub method: String,
    /// A header of the request, 'Name: value'; may be repeated
    #[arg(long, value_name = "HEADER", requires = "explain")]
    pub header: Vec<String>,
    /// The address that the request comes from
    #[arg(long, value_name = "IP", requires = "explain")]
    pub from: Option<IpAddr>,
}

#[derive(Args)]
pub struct OriginArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    pub listen: std::net::SocketAddr,
    /// What it does with what it gets
    #[arg(long, default_value = "echo")]
    pub mode: OriginMode,
    /// Connections to hold
    #[arg(long, value_name = "N")]
    pub max_connections: Option<String>,
    /// Mode http: how many bytes `/` answers
    #[arg(long, value_name = "N", default_value = "100")]
    pub bytes: String,
    /// Mode http: wait so long before every answer
    #[arg(long, value_name = "D", default_value = "0s")]
    pub delay: String,
    /// Mode http: close a connection after so many answers, unannounced
    #[arg(long, value_name = "N")]
    pub close_after: Option<u32>,
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub engine: EngineArg,
    /// Threads that serve; derived when left out
    #[arg(long, value_name = "N")]
    pub shards: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq, Debug)]
pub enum OriginMode {
    /// Sends back every byte
    Echo,
    /// Accepts and never reads
    Sink,
    /// HTTP/1.1 and WebSocket; what it answers is in the path
    Http,
}

#[derive(Subcommand)]
pub enum LoadCommand {
    /// TCP connections to an echoing address, each verified by a token of its own
    Tcp(LoadArgs),
    /// HTTP/1.1 requests by a client that never tries twice: each is answered, or counted as lost with how far it came
    #[command(after_help = "Examples:\n  fourfold load http http://127.0.0.1:8080/ --connections 64\n  \
                            fourfold load http 127.0.0.1:8080 --path /bytes/10240 --rate 20_000 --verify pattern\n  \
                            fourfold load http 127.0.0.1:8080 --connections 100k --interval 10s --source 127.0.0.2-127.0.0.9\n\n\
                            A request counts from when it was intended: with --rate and --interval also while no connection is \
                            free for it.\n\nSignals:\n  SIGUSR1  print the counters as JSON\n\nExit status: 0 all answered with a status below 400, 1 not, 2 wrong usage")]
    Http(HttpLoadArgs),
    /// WebSockets, each proven by a message that an echoing address sends back, then held or driven
    Ws(WsLoadArgs),
}

/// What is common to loads of HTTP and WebSocket.
#[derive(Args)]
pub struct DriveArgs {
    /// Address or URL: ip:port, [v6]:port, host:port, http://host[:port]/path
    #[arg(value_name = "URL|ADDR")]
    pub target: String,
    /// Connections
    #[arg(long, value_name = "N", default_value = "64")]
    pub connections: String,
    /// Start so many per second in all, whether or not those before are answered
    #[arg(long, value_name = "R", conflicts_with_all = ["interval"])]
    pub rate: Option<String>,
    /// Start one on every connection in each interval
    #[arg(long, value_name = "D")]
    pub interval: Option<String>,
    /// How long to go on, from when all connections are there; 5s unless --requests is given
    #[arg(long, value_name = "D")]
    pub duration: Option<String>,
    /// Start so many in all
    #[arg(long, value_name = "N")]
    pub requests: Option<String>,
    /// Path, with the query; overrides the URL's
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Another field of the request, "Name: value"; may be repeated
    #[arg(long, value_name = "FIELD")]
    pub header: Vec<String>,
    /// Source addresses: ip, ip-ip or prefix/len; may be repeated
    #[arg(long, value_name = "SET")]
    pub source: Vec<String>,
    /// Connections to start per second; as fast as they are made when left out
    #[arg(long, value_name = "R")]
    pub connect_rate: Option<u32>,
    /// Give up a connection or an answer after this
    #[arg(long, value_name = "D", default_value = "30s")]
    pub timeout: String,
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub engine: EngineArg,
    /// Threads; derived when left out
    #[arg(long, value_name = "N")]
    pub shards: Option<usize>,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct HttpLoadArgs {
    #[command(flatten)]
    pub drive: DriveArgs,
    /// One request per connection, which is then held
    #[arg(long, conflicts_with_all = ["rate", "interval", "requests"])]
    pub hold: bool,
    #[arg(long, value_name = "METHOD", default_value = "GET")]
    pub method: String,
    /// Length of the request's body; each body proves whose it is
    #[arg(long, value_name = "N", default_value = "0")]
    pub body_bytes: String,
    /// Whether a connection takes more than one request
    #[arg(long, value_name = "on|off", default_value = "on")]
    pub keep_alive: OnOff,
    /// What an answer is compared with
    #[arg(long, value_name = "WHAT", default_value = "framing")]
    pub verify: VerifyArg,
    /// Length that the body of every answer with status 200 must have
    #[arg(long, value_name = "N")]
    pub expect_bytes: Option<String>,
}

#[derive(Args)]
pub struct WsLoadArgs {
    #[command(flatten)]
    pub drive: DriveArgs,
    /// Length of a message
    #[arg(long, value_name = "BYTES", default_value = "32")]
    pub message: String,
    /// Send the next message as soon as the one before is back
    #[arg(long, conflicts_with_all = ["rate", "interval"])]
    pub busy: bool,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq, Debug)]
pub enum OnOff {
    On,
    Off,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq, Debug)]
pub enum VerifyArg {
    /// It is whole
    Framing,
    /// It is what `fourfold origin --mode http` sends
    Pattern,
    /// It is the request's body
    Echo,
}

#[derive(Args)]
pub struct LoadArgs {
    /// Address to connect to
    pub target: std::net::SocketAddr,
    /// Connections to open
    #[arg(long, value_name = "N")]
    pub connections: String,
    /// Connections to start per second; as fast as they are answered when left out
    #[arg(long, value_name = "R")]
    pub rate: Option<u32>,
    /// How long to hold them once all are up
    #[arg(long, value_name = "D", default_value = "5s")]
    pub duration: String,
    /// Source addresses: ip, ip-ip or prefix/len; may be repeated
    #[arg(long, value_name = "SET")]
    pub source: Vec<String>,
    /// While holding, verify this many random connections per second again
    #[arg(long, value_name = "R", default_value_t = 0)]
    pub verify: u32,
    /// Instead of holding: send messages of this many bytes over every connection and await each echo
    #[arg(long, value_name = "BYTES")]
    pub message: Option<u32>,
    /// Give up connections that are not verified after this
    #[arg(long, value_name = "D", default_value = "30s")]
    pub timeout: String,
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub engine: EngineArg,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct DemoArgs {
    /// Connections to hold through the proxy
    #[arg(long, value_name = "N", default_value = "70_000")]
    pub connections: String,
    /// How long to hold them once all are up
    #[arg(long, value_name = "D", default_value = "5s")]
    pub duration: String,
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub engine: EngineArg,
}
