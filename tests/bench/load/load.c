/* Load for the relay benchmark: a desktop that answers, and clients that ask. One epoll loop each, one thread.
 *
 *   load desktop --unix PATH --size BYTES         answers each 10-byte update request with BYTES bytes
 *   load desktop --port PORT --size BYTES         the same over TCP (for relays that only know TCP)
 *   load client --port PORT --path PATH... --conns N --warm S --secs S [--raw] [--window W] [--aud AUD]
 *
 * Both speak enough RFB 3.8 to be let through a gateway that follows the protocol. With --bulk a desktop writes without a
 * pause after the first request. Data are incompressible, as what a real desktop sends is. A client prints START when its
 * measured window begins (so that the gateway's CPU time can be read) and one line of JSON at its end. With --aud the wire is
 * `continuity.v1`: a ticket in the first message, and an acknowledgement each 64 KiB.
 *
 * build: cc -O2 -o load load.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define READ_BYTES (256 * 1024)
#define CONNS_MAX 1024
#define REQUEST_BYTES 10

enum stage { ST_VERSION, ST_SECURITY, ST_INIT, ST_RUNNING };
enum transport { TR_CONNECTING, TR_HTTP, TR_OPEN };

struct conn {
	int fd, stage, transport, wants_write;
	uint64_t owed;             /* desktop: bytes still to be written */
	unsigned asked;            /* desktop: bytes of a cut request */
	char held[64];
	unsigned nheld;            /* desktop: a cut handshake. client: handshake bytes needed */
	char head[4096];
	unsigned nhead;            /* client: the 101 answer */
	unsigned char frame[10];
	unsigned nframe;           /* client: a cut frame head */
	uint64_t left;             /* client: payload bytes of this frame */
	int opcode;
	uint64_t got;              /* client: bytes of the answer that is waited for */
	uint64_t received, acked;  /* client: offsets of a resumable stream */
	char text[512];
	unsigned ntext;            /* client: a control message */
	const char *path;
};

static int epoll_fd, is_raw, is_bulk;
static const char *aud;
static uint64_t answer_bytes = 65536, total_bytes, total_answers;
static int measuring, window = 1;
static char buffer[READ_BYTES], noise[1 << 20];

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static void watch(struct conn *c, int op, uint32_t events)
{
	struct epoll_event e = {.events = events, .data.ptr = c};
	if (epoll_ctl(epoll_fd, op, c->fd, &e) < 0)
		die("epoll_ctl");
}

static void write_all(struct conn *c, const void *data, size_t n)
{
	if (send(c->fd, data, n, MSG_NOSIGNAL) != (ssize_t)n) {
		fprintf(stderr, "a short write of %zu bytes\n", n);
		exit(3);
	}
}

/* ------------------------------------------------------------------------------------------- desktop */

static const char SERVER_INIT[28] = "\x05\x00\x03\x20" "\x20\x18\x00\x01\x00\xff\x00\xff\x00\xff\x10\x08\x00\x00\x00\x00" "\x00\x00\x00\x04" "load";

static int desktop_greets(struct conn *c, const char *data, size_t n)
{
	size_t used = 0;
	static const unsigned need[] = {12, 1, 1};
	while (c->stage < ST_RUNNING && used < n) {
		c->held[c->nheld++] = data[used++];
		if (c->nheld < need[c->stage])
			continue;
		c->nheld = 0;
		if (c->stage == ST_VERSION)
			write_all(c, "\x01\x01", 2);
		else if (c->stage == ST_SECURITY)
			write_all(c, "\0\0\0\0", 4);
		else
			write_all(c, SERVER_INIT, sizeof SERVER_INIT);
		c->stage++;
	}
	return (int)used;
}

static int desktop_pours(struct conn *c)
{
	while (c->owed) {
		size_t n = c->owed < sizeof noise ? c->owed : sizeof noise;
		ssize_t sent = send(c->fd, noise, n, MSG_NOSIGNAL);
		if (sent < 0)
			return errno == EAGAIN ? 1 : -1;
		if (!is_bulk)
			c->owed -= (uint64_t)sent;
	}
	return 0;
}

static int desktop_event(struct conn *c, uint32_t events)
{
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
		if (n == 0 || (n < 0 && errno != EAGAIN))
			return -1;
		if (n > 0) {
			int used = desktop_greets(c, buffer, (size_t)n);
			c->asked += (unsigned)(n - used);
			c->owed += (uint64_t)(c->asked / REQUEST_BYTES) * answer_bytes;
			c->asked %= REQUEST_BYTES;
		}
	}
	int blocked = desktop_pours(c);
	if (blocked >= 0 && blocked != c->wants_write) {
		c->wants_write = blocked;
		watch(c, EPOLL_CTL_MOD, blocked ? EPOLLIN | EPOLLOUT : EPOLLIN);
	}
	return blocked;
}

_Noreturn static void desktop(int port, const char *unix_path)
{
	int listener = socket(unix_path ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
	if (unix_path) {
		struct sockaddr_un a = {.sun_family = AF_UNIX};
		snprintf(a.sun_path, sizeof a.sun_path, "%s", unix_path);
		if (bind(listener, (void *)&a, sizeof a))
			die("bind");
	} else {
		struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
		setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
		if (bind(listener, (void *)&a, sizeof a))
			die("bind");
	}
	if (listen(listener, 1024))
		die("listen");
	struct conn server = {.fd = listener};
	watch(&server, EPOLL_CTL_ADD, EPOLLIN);
	struct epoll_event events[256];
	for (;;) {
		int n = epoll_wait(epoll_fd, events, 256, -1);
		for (int i = 0; i < n; i++) {
			struct conn *c = events[i].data.ptr;
			if (c != &server) {
				if (desktop_event(c, events[i].events) < 0) {
					close(c->fd);
					free(c);
				}
				continue;
			}
			int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
			if (fd < 0)
				continue;
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
			c = calloc(1, sizeof *c);
			c->fd = fd;
			watch(c, EPOLL_CTL_ADD, EPOLLIN);
			write_all(c, "RFB 003.008\n", 12);
		}
	}
}

/* -------------------------------------------------------------------------------------------- client */

static void say(struct conn *c, int opcode, const void *data, size_t n)
{
	unsigned char out[512] = {(unsigned char)(0x80 | opcode), (unsigned char)(0x80 | n)};
	unsigned head = 2;
	if (is_raw) {
		write_all(c, data, n);
		return;
	}
	if (n > 125) {
		out[1] = 0x80 | 126, out[2] = (unsigned char)(n >> 8), out[3] = (unsigned char)n;
		head = 4;
	}
	memcpy(out + head, "\x5a\xa5\x3c\xc3", 4);
	for (size_t i = 0; i < n; i++)
		out[head + 4 + i] = ((const unsigned char *)data)[i] ^ out[head + (i & 3)];
	write_all(c, out, head + 4 + n);
}

static void ask(struct conn *c)
{
	say(c, 2, "\x03\x01\0\0\0\0\x05\0\x03\x20", REQUEST_BYTES);
}

static void take(struct conn *c, size_t n)
{
	static const unsigned need[] = {12, 2, 4 + sizeof SERVER_INIT};
	if (c->stage == ST_RUNNING) {
		if (measuring)
			total_bytes += n;
		c->got += n;
		while (!is_bulk && c->got >= answer_bytes) {
			c->got -= answer_bytes;
			total_answers += (uint64_t)measuring;
			ask(c);
		}
		return;
	}
	c->nheld += (unsigned)n;
	if (c->nheld < need[c->stage])
		return;
	if (c->stage == ST_VERSION) {
		say(c, 2, "RFB 003.008\n", 12);
	} else if (c->stage == ST_SECURITY) {
		say(c, 2, "\x01", 1);
		say(c, 2, "\x01", 1);
	} else {
		for (int i = 0; i < window; i++)
			ask(c);
	}
	c->nheld = 0;
	c->stage++;
}

static void acknowledge(struct conn *c)
{
	char text[48];
	int n = snprintf(text, sizeof text, "{\"a\":%llu}", (unsigned long long)c->received);
	c->acked = c->received;
	say(c, 1, text, (size_t)n);
}

static void take_text(struct conn *c)
{
	static int tickets;
	char text[400];
	c->text[c->ntext] = 0, c->ntext = 0;
	if (strstr(c->text, "\"hello\"")) {
		int n = snprintf(text, sizeof text, "{\"t\":\"open\",\"aud\":\"%s\",\"auth\":\"%026dAAAAAAAAAAAAAAAAA\",\"can\":[]}", aud, tickets++);
		say(c, 1, text, (size_t)n);
	} else if (strstr(c->text, "\"h\":")) {
		acknowledge(c);
	} else if (strstr(c->text, "\"no\"")) {
		fprintf(stderr, "refused: %s\n", c->text);
		exit(4);
	}
}

static void read_frames(struct conn *c, const unsigned char *p, size_t n)
{
	while (n) {
		if (c->left) {
			size_t k = c->left < n ? (size_t)c->left : n;
			if (c->opcode == 2 || c->opcode == 0)
				take(c, k), c->received += k;
			if (aud && c->received - c->acked >= 65536)
				acknowledge(c);
			if (c->opcode == 1 && c->ntext + k < sizeof c->text)
				memcpy(c->text + c->ntext, p, k), c->ntext += (unsigned)k;
			p += k, n -= k, c->left -= k;
			if (!c->left && c->opcode == 9)
				say(c, 10, "", 0);
			if (!c->left && c->opcode == 1)
				take_text(c);
			continue;
		}
		c->frame[c->nframe++] = *p++, n--;
		if (c->nframe < 2)
			continue;
		unsigned length = c->frame[1] & 127, head = length == 127 ? 10 : length == 126 ? 4 : 2;
		if (c->nframe < head)
			continue;
		c->left = head == 2 ? length : 0;
		for (unsigned i = 2; i < head; i++)
			c->left = c->left << 8 | c->frame[i];
		c->opcode = c->frame[0] & 15, c->nframe = 0;
		if (c->opcode == 8) {
			fprintf(stderr, "the link was closed\n");
			exit(4);
		}
		if (!c->left && c->opcode == 9)
			say(c, 10, "", 0);
	}
}

static void client_event(struct conn *c)
{
	if (c->transport == TR_CONNECTING) {
		char request[1024];
		watch(c, EPOLL_CTL_MOD, EPOLLIN);
		c->transport = is_raw ? TR_OPEN : TR_HTTP;
		if (is_raw)
			return;
		int n = snprintf(request, sizeof request,
			"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: %s\r\n\r\n",
			c->path, aud ? "continuity.v1" : "binary");
		write_all(c, request, (size_t)n);
		return;
	}
	ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		fprintf(stderr, "the connection ended\n");
		exit(4);
	}
	const char *p = buffer;
	while (c->transport == TR_HTTP && n) {
		if (c->nhead < sizeof c->head - 1)
			c->head[c->nhead++] = *p;
		p++, n--;
		if (c->nhead < 4 || memcmp(c->head + c->nhead - 4, "\r\n\r\n", 4))
			continue;
		if (memcmp(c->head, "HTTP/1.1 101", 12)) {
			fprintf(stderr, "%s", c->head);
			exit(4);
		}
		c->transport = TR_OPEN;
	}
	if (is_raw)
		take(c, (size_t)n);
	else if (n)
		read_frames(c, (const unsigned char *)p, (size_t)n);
}

static int client(int port, int conns, double warm_s, double secs, char **paths, int npaths)
{
	struct conn *all = calloc((size_t)conns, sizeof *all);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	for (int i = 0; i < conns; i++) {
		int one = 1;
		all[i].fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		all[i].path = npaths ? paths[i % npaths] : "/";
		setsockopt(all[i].fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		if (connect(all[i].fd, (void *)&a, sizeof a) < 0 && errno != EINPROGRESS)
			die("connect");
		watch(&all[i], EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
	}
	struct epoll_event events[256];
	uint64_t begins = 0, ends = 0, gives_up = now_ns() + 20000000000u;
	int ready = 0;
	for (;;) {
		int n = epoll_wait(epoll_fd, events, 256, 10);
		for (int i = 0; i < n; i++)
			client_event(events[i].data.ptr);
		uint64_t t = now_ns();
		if (!ready) {
			for (ready = 0; ready < conns && all[ready].stage == ST_RUNNING; ready++)
				;
			ready = ready == conns;
			begins = t + (uint64_t)(warm_s * 1e9);
			if (t > gives_up) {
				fprintf(stderr, "not all links opened\n");
				exit(5);
			}
		} else if (!measuring && t >= begins) {
			measuring = 1;
			begins = t;
			ends = t + (uint64_t)(secs * 1e9);
			puts("START");
			fflush(stdout);
		} else if (measuring && t >= ends) {
			double took = (double)(t - begins) / 1e9;
			printf("{\"seconds\": %.4f, \"bytes\": %llu, \"answers\": %llu}\n", took, (unsigned long long)total_bytes, (unsigned long long)total_answers);
			fflush(stdout);
			getchar(); /* until the gateway's CPU time was read */
			return 0;
		}
	}
}

int main(int argc, char **argv)
{
	int port = 0, conns = 1, npaths = 0;
	double warm_s = 0.5, secs = 2;
	const char *unix_path = NULL;
	char *paths[CONNS_MAX];
	signal(SIGPIPE, SIG_IGN);
	if (argc < 2)
		return 1;
	for (int i = 2; i < argc; i++) {
		if (!strcmp(argv[i], "--raw"))
			is_raw = 1;
		else if (!strcmp(argv[i], "--bulk"))
			is_bulk = 1;
		else if (i + 1 == argc)
			return 1;
		else if (!strcmp(argv[i], "--port"))
			port = atoi(argv[++i]);
		else if (!strcmp(argv[i], "--aud"))
			aud = argv[++i];
		else if (!strcmp(argv[i], "--unix"))
			unix_path = argv[++i];
		else if (!strcmp(argv[i], "--size"))
			answer_bytes = strtoull(argv[++i], NULL, 10);
		else if (!strcmp(argv[i], "--conns"))
			conns = atoi(argv[++i]);
		else if (!strcmp(argv[i], "--window"))
			window = atoi(argv[++i]);
		else if (!strcmp(argv[i], "--warm"))
			warm_s = atof(argv[++i]);
		else if (!strcmp(argv[i], "--secs"))
			secs = atof(argv[++i]);
		else if (!strcmp(argv[i], "--path") && npaths < CONNS_MAX)
			paths[npaths++] = argv[++i];
		else
			return 1;
	}
	uint64_t x = 88172645463325252u;
	for (size_t i = 0; i < sizeof noise; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		noise[i] = (char)x;
	}
	epoll_fd = epoll_create1(0);
	if (!strcmp(argv[1], "desktop"))
		desktop(port, unix_path);
	if (!strcmp(argv[1], "client"))
		return client(port, conns, warm_s, secs, paths, npaths);
	return 1;
}
