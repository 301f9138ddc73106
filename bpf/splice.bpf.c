// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
//
// Carries what one TCP socket receives to another socket, without user space.
//
// Owns: the verdict on each piece that a spliced socket receives, the count of what was carried, and the limit of what may wait
// for a peer that does not take it. Refuses to know what a tunnel is: a flow is one direction, named by its source's cookie.
// Driven by: the kernel, for sockets in `sources`; crates/sys/src/bpf.rs puts them there and takes them out again.
//
// Declares what it uses of the kernel itself, so that it builds without anybody's headers: bpf/README.md.

typedef unsigned int u32;
typedef unsigned long long u64;

#define SEC(name) __attribute__((section(name), used))
#define MAP(type_, entries_, key_, value_)                                                                             \
	struct {                                                                                                       \
		int (*type)[type_];                                                                                    \
		int (*max_entries)[entries_];                                                                          \
		typeof(key_) *key;                                                                                     \
		typeof(value_) *value;                                                                                 \
	}

// include/uapi/linux/bpf.h
enum { HASH = 1, SOCKHASH = 18, RINGBUF = 27 };
enum { SK_DROP = 0, SK_PASS = 1 };
struct __sk_buff {
	u32 len;
};
static void *(*map_lookup)(const void *map, const void *key) = (void *)1;
static u64 (*ktime_get_ns)(void) = (void *)5;
static u64 (*get_socket_cookie)(void *ctx) = (void *)46;
static int (*sk_redirect_hash)(void *skb, void *map, void *key, u64 flags) = (void *)72;
static int (*sk_release)(void *sk) = (void *)86;
static int (*ringbuf_output)(void *map, void *data, u64 bytes, u64 flags) = (void *)130;
static struct tcp_sock *(*skc_to_tcp_sock)(void *sk) = (void *)137;

// include/linux/tcp.h; where the field lies is found in the running kernel's BTF when the program is loaded.
struct tcp_sock {
	u32 write_seq;
} __attribute__((preserve_access_index));

// A flow is looked at whenever so many bytes have been carried; the looks cost more than the carrying.
#define LOOK_BYTES (32 * 1024)
// More than this waiting for the peer: user space is told to take the tunnel back.
#define BACKLOG_TOLD (1024 * 1024)
// More than this: nothing is carried any more, what comes waits in the source's socket, whose window bounds it.
#define BACKLOG_MAX (4 * 1024 * 1024)
// So many bytes within so long are bulk (20 MB/s), which user space copies at less cost: each piece here takes a visit to a
// kernel worker, while a copy takes many at once.
#define BULK_BYTES (1024 * 1024)
#define BULK_NS (50ull * 1000 * 1000)

// As in crates/sys/src/bpf.rs.
enum { SLOW = 1, BULK = 2 };

struct flow {
	u64 tag;         // User space's name for it.
	u64 carried;     // Bytes handed to the peer.
	u64 passed;      // Bytes left to user space since it stopped.
	u64 looked;      // `carried` at the last look.
	u64 bulk_from;   // `carried` when this measure of its speed began, and when that was.
	u64 bulk_since;
	u32 base;        // The peer's write_seq when nothing had been carried.
	u32 stopped;     // Nothing is carried any more.
	u32 told;        // User space knows that it should take the tunnel back.
	u32 unused;
};

struct event {
	u64 tag;
	u64 what;
};

// Sizes are set by whoever loads this.
MAP(SOCKHASH, 1, u64, u32) sources SEC(".maps");
MAP(SOCKHASH, 1, u64, u32) targets SEC(".maps");
MAP(HASH, 1, u64, struct flow) flows SEC(".maps");
struct {
	int (*type)[RINGBUF];
	int (*max_entries)[4096];
} events SEC(".maps");

static void tell(struct flow *flow, u64 what)
{
	struct event event = { flow->tag, what };

	// When the ring is full the next piece tries again.
	if (!flow->told)
		flow->told = ringbuf_output(&events, &event, sizeof(event), 0) == 0;
}

// How many bytes wait for the peer, between here and its send queue.
static u32 backlog_of(struct flow *flow, u64 *key)
{
	void *peer = map_lookup(&targets, key);
	struct tcp_sock *tcp;
	u32 sequence = 0;

	if (!peer)
		return 0;
	tcp = skc_to_tcp_sock(peer);
	if (tcp)
		sequence = tcp->write_seq;
	sk_release(peer);
	if (!flow->carried)
		flow->base = sequence;
	return (u32)flow->carried - (sequence - flow->base);
}

static void look(struct flow *flow, u64 *key)
{
	u32 backlog = backlog_of(flow, key);
	u64 now = ktime_get_ns();

	flow->looked = flow->carried;
	if (backlog > BACKLOG_MAX)
		flow->stopped = 1;
	if (backlog > BACKLOG_TOLD)
		tell(flow, SLOW);
	if (!flow->carried) {
		flow->bulk_since = now;
	} else if (flow->carried - flow->bulk_from >= BULK_BYTES) {
		if (now - flow->bulk_since < BULK_NS)
			tell(flow, BULK);
		flow->bulk_from = flow->carried;
		flow->bulk_since = now;
	}
}

SEC("sk_skb/stream_verdict") int splice(struct __sk_buff *skb)
{
	u64 key = get_socket_cookie(skb);
	struct flow *flow = map_lookup(&flows, &key);

	// A FIN without bytes: the socket keeps it, this piece is of no further use. Left to user space it would read as an error
	// once the socket has left `sources`; sent on it would break the peer's.
	if (!skb->len)
		return SK_DROP;
	if (!flow)
		return SK_PASS;
	if (!flow->stopped && (!flow->carried || flow->carried - flow->looked >= LOOK_BYTES))
		look(flow, &key);
	if (flow->stopped) {
		tell(flow, SLOW);
		flow->passed += skb->len;
		return SK_PASS;
	}
	flow->carried += skb->len;
	return sk_redirect_hash(skb, &targets, &key, 0);
}

// skc_to_tcp_sock is for programs under a licence compatible with the GPL.
char LICENSE[] SEC("license") = "Dual MIT/GPL";
