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
    /// Find what binds first on this machine, at how many connections, and what lifts it
    #[command(
        after_help = "Examples:\n  fourfold doctor fourfold.toml\n  fourfold doctor fourfold.toml --fix --dry-run\n  \
                            fourfold doctor fourfold.toml --fix && fourfold run fourfold.toml\n  fourfold doctor --undo\n\nWith \
                            --fix kernel settings are changed until the next start, each with its value before and after; an undo \
                            file is written first. --persist also writes files that make them last.\n\nExit status: 0 nothing \
                            fails, 1 something does, 2 wrong usage."
    )]
    Doctor(DoctorArgs),
    /// What a number of connections takes: sources, ports, descriptors, memory, and how many machines
    #[command(
        after_help = "Examples:\n  fourfold plan --max-connections 1M --to 10.0.1.1:9000 --source 10.0.0.10-10.0.0.45\n  fourfold plan \
                            --max-connections 200k --to 10.0.1.1:9000 --mode http --requests 50k --request-time 20ms --svg plan.svg\n\n\
                            Clients and servers with loopback addresses are taken to be on this machine too.\n\nExit status: 0 this \
                            machine can, 1 it cannot, 2 wrong usage."
    )]
    Plan(PlanArgs),
    /// Ask a running instance
    #[command(
        subcommand,
        after_help = "Without --admin the only instance that runs here is asked.\n\nExamples:\n  fourfold show tuples\n  \
                            fourfold show tuples --pool chat --at-least half\n  fourfold show events --watch\n  \
                            fourfold show connections --limit 20 --json\n\nExit status: 0 answered, 1 not, 2 wrong usage"
    )]
    Show(ShowCommand),
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
    /// What costs less processor time: copying, on every kernel measured so far
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
    /// Where the instance can be asked: unix:PATH, 127.0.0.1:port, or off; overrides the file
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<String>,
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

#[derive(Subcommand)]
pub enum ShowCommand {
    /// What runs, and since when
    Instance(ShowArgs),
    /// Addresses that are listened on, their connections and kernel queues
    Listeners(ShowArgs),
    /// Servers and how they are, by pool
    Pools(ShowArgs),
    /// Four-tuples by destination and source: used, free, how fast they go, and when there will be none
    Tuples(ShowTuplesArgs),
    /// Clients that are connected, and through which tuple
    Connections(ShowConnectionsArgs),
    /// Limits of the configuration and of the kernel, fullest first
    Limits(ShowArgs),
    /// Everything that is counted, since the start
    Counters(ShowArgs),
    /// What happened lately, why, and what to do
    Events(ShowArgs),
}

#[derive(Args)]
pub struct ShowArgs {
    /// The instance: a socket's path, unix:PATH, or ip:port
    #[arg(long, value_name = "SOCKET|ADDR")]
    pub admin: Option<String>,
    /// Print what the instance answers
    #[arg(long)]
    pub json: bool,
    /// Ask again in each interval, until interrupted
    #[arg(long, value_name = "D", num_args = 0..=1, default_missing_value = "1s", require_equals = true)]
    pub watch: Option<String>,
}

#[derive(Args)]
pub struct ShowTuplesArgs {
    #[command(flatten)]
    pub show: ShowArgs,
    /// Only what this pool connects to
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Only this destination
    #[arg(long, value_name = "ADDR")]
    pub to: Option<std::net::SocketAddr>,
    /// Only destinations that are at least so full
    #[arg(long, value_name = "STATE")]
    pub at_least: Option<FillArg>,
    /// One line for each destination, its sources together
    #[arg(long)]
    pub sum: bool,
}

#[derive(Clone, Copy, ValueEnum, PartialEq, Eq, Debug)]
pub enum FillArg {
    Half,
    Near,
    Exhausted,
}

#[derive(Args)]
pub struct ShowConnectionsArgs {
    #[command(flatten)]
    pub show: ShowArgs,
    /// At most so many
    #[arg(long, value_name = "N", default_value = "100")]
    pub limit: String,
}

#[derive(Args)]
pub struct DoctorArgs {
    /// Configuration to judge this machine by
    pub file: Option<PathBuf>,
    /// Connections to hold; overrides the file
    #[arg(long, value_name = "N")]
    pub max_connections: Option<String>,
    /// New connections per second that last
    #[arg(long, value_name = "R")]
    pub rate: Option<String>,
    /// Connections that come in one moment; a tenth of a second's when left out
    #[arg(long, value_name = "N")]
    pub burst: Option<String>,
    /// Bytes that every connection has waiting in the kernel, when peers are slow
    #[arg(long, value_name = "N")]
    pub queued: Option<String>,
    /// In mode http: clients with a request in flight at once
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub busy: u64,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Change the settings that are too small, and say how each was
    #[arg(long, conflicts_with_all = ["undo", "facts", "folklore"])]
    pub fix: bool,
    /// With --fix from within a container or another network namespace: also settings of the whole machine
    #[arg(long, requires = "fix")]
    pub whole_machine: bool,
    /// With --fix: also write what makes it last (sysctl.d, systemd drop-in) below this folder
    #[arg(long, value_name = "ROOT", requires = "fix", num_args = 0..=1, default_missing_value = "/")]
    pub persist: Option<PathBuf>,
    /// With --fix: where to write what undoes it; below $XDG_STATE_HOME/fourfold when left out
    #[arg(long, value_name = "FILE", requires = "fix")]
    pub undo_file: Option<PathBuf>,
    /// Put back what --fix has changed: as this file says, or the newest
    #[arg(long, value_name = "FILE", num_args = 0..=1, conflicts_with = "file")]
    pub undo: Option<Option<PathBuf>>,
    /// With --fix or --undo: only say what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Print what is known of this machine, as JSON, and judge nothing
    #[arg(long)]
    pub facts: bool,
    /// Print beliefs about settings that are not true, and what is
    #[arg(long)]
    pub folklore: bool,
}

#[derive(Args)]
pub struct PlanArgs {
    /// Connections to hold, such as 120_000 or 1M
    #[arg(long, value_name = "N")]
    pub max_connections: String,
    /// Server: ip:port, [v6]:port or host:port; may be repeated
    #[arg(long, value_name = "ADDR", required = true, num_args = 1..)]
    pub to: Vec<String>,
    /// Source addresses towards the servers: ip, ip-ip or prefix/len; may be repeated
    #[arg(long, value_name = "SET")]
    pub source: Vec<String>,
    /// Address that clients connect to; on loopback, clients are on this machine too
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8080")]
    pub listen: String,
    /// What is spoken: tcp or http
    #[arg(long, value_name = "MODE", default_value = "tcp")]
    pub mode: String,
    /// Engine, which differs in what a connection takes
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub engine: EngineArg,
    /// New connections per second
    #[arg(long, value_name = "R")]
    pub rate: Option<String>,
    /// How long a connection lives: the rate follows from it, unless given
    #[arg(long, value_name = "D")]
    pub hold: Option<String>,
    /// Connections that come in one moment
    #[arg(long, value_name = "N")]
    pub burst: Option<String>,
    /// Bytes that every connection has waiting in the kernel, when peers are slow
    #[arg(long, value_name = "N")]
    pub queued: Option<String>,
    /// Requests per second, which share connections to the servers
    #[arg(long, value_name = "R")]
    pub requests: Option<String>,
    /// How long a server takes for a request
    #[arg(long, value_name = "D", default_value = "50ms", requires = "requests")]
    pub request_time: String,
    /// Print the plan as JSON
    #[arg(long)]
    pub json: bool,
    /// Draw each limit against connections into this file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
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
    /// Mode http: write a line to this file for every request as it comes, before it is answered: its method, target and
    /// X-Request-Id. It tells what was delivered even when the origin is killed
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
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

/// What is done with connections that are held.
#[derive(Args, Clone)]
pub struct HeldArgs {
    /// While holding, verify this many random connections per second again
    #[arg(long, value_name = "R", default_value_t = 0)]
    pub verify: u32,
    /// Once all are up, verify each of them again before the time of holding begins
    #[arg(long)]
    pub verify_all: bool,
    /// Print the counters as a line of JSON on standard error this often
    #[arg(long, value_name = "D")]
    pub progress: Option<String>,
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
    /// So many of a hundred requests are POST, evenly spread; only they have a body then
    #[arg(long, value_name = "PERCENT", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub post: u8,
    /// Give every request an X-Request-Id of its own, and name those that were lost in the report
    #[arg(long)]
    pub identify: bool,
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
    #[arg(long, conflicts_with_all = ["rate", "interval", "verify", "verify_all"])]
    pub busy: bool,
    #[command(flatten)]
    pub held: HeldArgs,
    /// Connections under way at a time, in all; more keep a busy machine busier and wait longer
    #[arg(long, value_name = "N")]
    pub pending: Option<String>,
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
    #[command(flatten)]
    pub held: HeldArgs,
    /// Instead of holding: send messages of this many bytes over every connection and await each echo
    #[arg(long, value_name = "BYTES", conflicts_with = "verify_all")]
    pub message: Option<u32>,
    /// Close by reset, which leaves no port in TIME_WAIT behind
    #[arg(long)]
    pub reset: bool,
    /// Give up connections that are not verified after this
    #[arg(long, value_name = "D", default_value = "30s")]
    pub timeout: String,
    /// Connections under way at a time, in all; more keep a busy machine busier and wait longer
    #[arg(long, value_name = "N")]
    pub pending: Option<String>,
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub engine: EngineArg,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct DemoArgs {
    /// Connections to hold through the proxy; each is four sockets on this machine, of up to 4.6 KB
    #[arg(long, value_name = "N", default_value = "70_000")]
    pub connections: String,
    /// How long to hold them once all are up
    #[arg(long, value_name = "D", default_value = "5s")]
    pub duration: String,
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    pub engine: EngineArg,
}
