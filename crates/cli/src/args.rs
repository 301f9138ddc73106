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
                            drain until drain_timeout; a second one stops now\n  SIGUSR1          print counters and headroom"
    )]
    Run(RunArgs),
    /// Check a configuration and start nothing; exit status 0 valid, 1 errors, 2 usage
    #[command(
        after_help = "Examples:\n  fourfold check fourfold.toml\n  fourfold check fourfold.toml --explain \
                            http://api.example.com/v1/users --method POST --header 'X-Canary: 1'\n\nWith --explain the exit \
                            status is 0 when a route takes the request, 1 when none does."
    )]
    Check(CheckArgs),
    /// Run a backend to try things against: it echoes what it gets
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
}

#[derive(Subcommand)]
pub enum LoadCommand {
    /// TCP connections to an echoing address, each verified by a token of its own
    Tcp(LoadArgs),
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
