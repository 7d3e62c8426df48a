/* A herd of clients of `continuity.v1`: many links that open, stay idle, and come back all at once. One epoll loop, one thread.
 *
 *   herd --port PORT --aud AUD --count N --shards S [--seed N]
 *
 * Prints OPEN when every link is open, then obeys lines on its standard input and prints one line of JSON for each:
 *   idle           nothing; the herd goes on answering signs of life meanwhile
 *   storm          drop all links at once, dial all at once, resume each
 *   drain          wait until the service has told all to come back, dial each within the range it named, resume
 *   quit
 * With --bare a link counts as open at `hello` and says nothing but pongs.
 * A refused connection is counted and dialled again. The proofs are real: HMAC-SHA256 over the challenge of each socket.
 *
 * build: cc -O2 -o herd herd.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------- proofs */

static uint32_t rol(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void sha256_block(uint32_t *h, const unsigned char *p)
{
	static uint32_t k[64];
	if (!k[0]) { /* the first 32 bits of the fractional parts of the cube roots of the first 64 primes */
		int n = 0;
		for (unsigned q = 2; n < 64; q++) {
			unsigned d = 2;
			while (d * d <= q && q % d)
				d++;
			if (d * d <= q)
				continue;
			long double lo = 1, hi = 8;
			for (int i = 0; i < 100; i++) {
				long double mid = (lo + hi) / 2;
				if (mid * mid * mid < q)
					lo = mid;
				else
					hi = mid;
			}
			k[n++] = (uint32_t)((lo - (long double)(uint64_t)lo) * 4294967296.0L);
		}
	}
	uint32_t w[64], s[8];
	for (int i = 0; i < 16; i++)
		w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
	for (int i = 16; i < 64; i++)
		w[i] = w[i - 16] + w[i - 7] + (rol(w[i - 15], 7) ^ rol(w[i - 15], 18) ^ w[i - 15] >> 3)
			+ (rol(w[i - 2], 17) ^ rol(w[i - 2], 19) ^ w[i - 2] >> 10);
	memcpy(s, h, 32);
	for (int i = 0; i < 64; i++) {
		uint32_t a = s[7] + (rol(s[4], 6) ^ rol(s[4], 11) ^ rol(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
		uint32_t b = (rol(s[0], 2) ^ rol(s[0], 13) ^ rol(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
		memmove(s + 1, s, 28);
		s[4] += a;
		s[0] = a + b;
	}
	for (int i = 0; i < 8; i++)
		h[i] += s[i];
}

static void sha256(const unsigned char *first, const void *data, size_t n, unsigned char *out)
{
	uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
	unsigned char last[128] = {0};
	const unsigned char *p = data;
	uint64_t bits = (64 + n) * 8;
	sha256_block(h, first);
	for (; n >= 64; p += 64, n -= 64)
		sha256_block(h, p);
	memcpy(last, p, n);
	last[n] = 0x80;
	size_t whole = n < 56 ? 64 : 128;
	for (int i = 0; i < 8; i++)
		last[whole - 1 - i] = (unsigned char)(bits >> 8 * i);
	sha256_block(h, last);
	if (whole == 128)
		sha256_block(h, last + 64);
	for (int i = 0; i < 32; i++)
		out[i] = (unsigned char)(h[i / 4] >> (24 - 8 * (i & 3)));
}

static void hmac(const unsigned char *key32, const char *text, unsigned char *out)
{
	unsigned char inner[64], outer[64], middle[32];
	for (int i = 0; i < 64; i++) {
		unsigned char k = i < 32 ? key32[i] : 0;
		inner[i] = k ^ 0x36;
		outer[i] = k ^ 0x5c;
	}
	sha256(inner, text, strlen(text), middle);
	sha256(outer, middle, 32, out);
}

static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

static void encode32(const unsigned char *in, char *out)
{
	unsigned have = 0, bits = 0;
	for (int i = 0; i < 32; i++) {
		have = have << 8 | in[i];
		for (bits += 8; bits >= 6; bits -= 6)
			*out++ = ALPHABET[have >> (bits - 6) & 63];
	}
	*out++ = ALPHABET[have << (6 - bits) & 63];
	*out = 0;
}

static void decode32(const char *in, unsigned char *out)
{
	unsigned have = 0, bits = 0, n = 0;
	for (; n < 32 && *in; in++) {
		have = have << 6 | (unsigned)(strchr(ALPHABET, *in) - ALPHABET);
		if ((bits += 6) >= 8)
			out[n++] = (unsigned char)(have >> (bits -= 8));
	}
}

/* -------------------------------------------------------------------------------------------- links */

enum state { AWAY, CONNECTING, UPGRADING, HELLO, ANSWER, OPEN };

struct link {
	int fd, number, resumes;
	enum state state;
	char head[1024];
	unsigned nhead;
	unsigned char frame[10];
	unsigned nframe;
	uint64_t left, received;
	int opcode;
	char text[1024];
	unsigned ntext;
	char sid[40], leg[16];
	unsigned char key[32];
	uint64_t due, dialled;
	double took_ms;
};

static int bare, epoll_fd, port, count, shards = 1, open_links, refused, replays, resyncs, draining, told, finished;
static const char *aud;
static struct link *all;
static char buffer[65536];
static uint64_t began, first_told;

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what, struct link *c)
{
	fprintf(stderr, "%s (link %d, state %d): %s\n", what, c ? c->number : -1, c ? (int)c->state : -1, c ? c->text : "");
	exit(2);
}

static void field(const char *json, const char *name, char *out, size_t max)
{
	char wanted[32];
	snprintf(wanted, sizeof wanted, "\"%s\":\"", name);
	const char *p = strstr(json, wanted);
	size_t n = 0;
	if (p)
		for (p += strlen(wanted); *p && *p != '"' && n + 1 < max; p++)
			out[n++] = *p;
	out[n] = 0;
}

static void dial(struct link *c)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
	int one = 1;
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (c->fd < 0)
		die("socket", c);
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	c->state = CONNECTING, c->nhead = c->nframe = c->ntext = 0, c->left = 0, c->due = 0;
	if (!c->dialled)
		c->dialled = now_ns();
	if (connect(c->fd, (void *)&a, sizeof a) < 0 && errno != EINPROGRESS)
		die("connect", c);
	epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &e);
}

static void say(struct link *c, int opcode, const char *text)
{
	unsigned char out[1200] = {(unsigned char)(0x80 | opcode)};
	size_t n = strlen(text), head = 2;
	if (n < 126) {
		out[1] = (unsigned char)(0x80 | n);
	} else {
		out[1] = 0x80 | 126, out[2] = (unsigned char)(n >> 8), out[3] = (unsigned char)n;
		head = 4;
	}
	memcpy(out + head, "\x5a\xa5\x3c\xc3", 4);
	for (size_t i = 0; i < n; i++)
		out[head + 4 + i] = (unsigned char)text[i] ^ out[head + (i & 3)];
	if (send(c->fd, out, head + 4 + n, MSG_NOSIGNAL) < 0 && errno != EPIPE && errno != ECONNRESET)
		die("send", c);
}

static void lost(struct link *c)
{
	if (c->state == OPEN)
		open_links--;
	close(c->fd);
	c->state = AWAY;
	if (draining && !c->due)
		c->due = now_ns() + 100000000u;
}

static void acknowledge(struct link *c)
{
	char text[64];
	snprintf(text, sizeof text, "{\"a\":%llu}", (unsigned long long)c->received);
	say(c, 1, text);
}

static void first_message(struct link *c)
{
	char out[900], challenge[64], signed_text[600], mac64[48];
	unsigned char mac[32];
	if (!c->sid[0]) {
		snprintf(out, sizeof out, "{\"t\":\"open\",\"aud\":\"%s\",\"auth\":\"%026dAAAAAAAAAAAAAAAAA\",\"can\":[]}", aud, c->number);
		say(c, 1, out);
		return;
	}
	field(c->text, "c", challenge, sizeof challenge);
	c->resumes++;
	snprintf(signed_text, sizeof signed_text, "continuity.v1\nresume\n%s\n%s\n1\n%s\n%d\n%llu\n0\n0\n%s", aud, c->sid, c->leg,
		c->resumes, (unsigned long long)c->received, challenge);
	hmac(c->key, signed_text, mac);
	encode32(mac, mac64);
	snprintf(out, sizeof out,
		"{\"t\":\"resume\",\"aud\":\"%s\",\"sid\":\"%s\",\"grant\":1,\"leg\":\"%s\",\"n\":%d,\"rx\":%llu,\"have\":0,\"end\":0,\"mac\":\"%s\"}",
		aud, c->sid, c->leg, c->resumes, (unsigned long long)c->received, mac64);
	say(c, 1, out);
}

static void take_text(struct link *c)
{
	char key[64];
	c->text[c->ntext] = 0, c->ntext = 0;
	if (strstr(c->text, "\"hello\"")) {
		c->state = bare ? OPEN : ANSWER;
		if (bare)
			open_links++;
		else
			first_message(c);
	} else if (strstr(c->text, "\"opened\"")) {
		field(c->text, "sid", c->sid, sizeof c->sid);
		field(c->text, "leg", c->leg, sizeof c->leg);
		field(c->text, "key", key, sizeof key);
		decode32(key, c->key);
		c->state = OPEN, c->dialled = 0, open_links++;
	} else if (strstr(c->text, "\"resumed\"")) {
		if (strstr(c->text, "\"resync\"")) {
			field(c->text, "leg", c->leg, sizeof c->leg);
			c->received = 0, resyncs++;
		} else {
			replays++;
		}
		c->took_ms = (double)(now_ns() - c->dialled) / 1e6;
		c->dialled = 0;
		c->state = OPEN, open_links++;
	} else if (strstr(c->text, "\"drain\"")) {
		int low = 0, high = 0;
		const char *p = strstr(c->text, "\"after\":[");
		if (!p || sscanf(p, "\"after\":[%d,%d]", &low, &high) != 2)
			die("drain", c);
		if (!first_told)
			first_told = now_ns();
		told++;
		c->due = now_ns() + (uint64_t)(low + (high > low ? rand() % (high - low) : 0)) * 1000000u;
	} else if (strstr(c->text, "\"h\":")) {
		acknowledge(c);
	} else if (strstr(c->text, "\"no\"") && strstr(c->text, "\"retry\"") && (draining || told)) {
		c->due = now_ns() + 300000000u; /* asked to come again */
	} else if (strstr(c->text, "\"no\"") || strstr(c->text, "\"taken\"")) {
		die("refused", c);
	}
}

static void read_frames(struct link *c, const unsigned char *p, size_t n)
{
	while (n) {
		if (c->left) {
			size_t k = c->left < n ? (size_t)c->left : n;
			if (c->opcode == 2)
				c->received += k;
			else if (c->opcode == 1 && c->ntext + k < sizeof c->text)
				memcpy(c->text + c->ntext, p, k), c->ntext += (unsigned)k;
			p += k, n -= k, c->left -= k;
			if (c->left)
				continue;
		} else {
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
			if (c->left)
				continue;
		}
		if (c->opcode == 9)
			say(c, 10, "");
		else if (c->opcode == 1)
			take_text(c);
		else if (c->opcode == 2)
			acknowledge(c);
		else if (c->opcode == 8)
			return;
	}
}

static void event(struct link *c, uint32_t events)
{
	if (c->state == CONNECTING) {
		int error = 0;
		socklen_t size = sizeof error;
		char out[512];
		struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
		getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
		if (error) {
			refused += error == ECONNREFUSED;
			lost(c);
			c->due = now_ns() + 100000000u;
			return;
		}
		epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
		int n = snprintf(out, sizeof out,
			"GET /s/%d/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
			"Sec-WebSocket-Protocol: continuity.v1\r\n\r\n", c->number % shards);
		c->state = UPGRADING;
		if (send(c->fd, out, (size_t)n, MSG_NOSIGNAL) != n)
			die("request", c);
		return;
	}
	(void)events;
	ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		if (finished)
			exit(0);
		if (!draining && !told)
			die("the connection ended", c);
		lost(c);
		return;
	}
	const char *p = buffer;
	while (c->state == UPGRADING && n) {
		if (c->nhead < sizeof c->head - 1)
			c->head[c->nhead++] = *p;
		p++, n--;
		if (c->nhead < 4 || memcmp(c->head + c->nhead - 4, "\r\n\r\n", 4))
			continue;
		if (memcmp(c->head, "HTTP/1.1 101", 12)) {
			fprintf(stderr, "%.*s", (int)c->nhead, c->head);
			exit(4);
		}
		c->state = HELLO;
	}
	if (n)
		read_frames(c, (const unsigned char *)p, (size_t)n);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

static void report(uint64_t from)
{
	double *took = malloc((size_t)count * sizeof *took);
	for (int i = 0; i < count; i++)
		took[i] = all[i].took_ms;
	qsort(took, (size_t)count, sizeof *took, compare);
	printf("{\"seconds\": %.4f, \"p50_ms\": %.1f, \"p99_ms\": %.1f, \"worst_ms\": %.1f, \"refused\": %d, \"replays\": %d, \"resyncs\": %d}\n",
		(double)(now_ns() - from) / 1e9, took[count / 2], took[count * 99 / 100], took[count - 1], refused, replays, resyncs);
	fflush(stdout);
	free(took);
}

int main(int argc, char **argv)
{
	char line[64];
	unsigned nline = 0;
	int dialled = 0, storming = 0, said_open = 0;
	signal(SIGPIPE, SIG_IGN);
	if (argc > 1 && !strcmp(argv[argc - 1], "--bare"))
		bare = 1;
	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--port"))
			port = atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--aud"))
			aud = argv[i + 1];
		else if (!strcmp(argv[i], "--count"))
			count = atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--shards"))
			shards = atoi(argv[i + 1]);
		else if (!strcmp(argv[i], "--seed"))
			srand((unsigned)atoi(argv[i + 1]));
	}
	if (!port || !aud || count < 1)
		return 1;
	all = calloc((size_t)count, sizeof *all);
	epoll_fd = epoll_create1(0);
	struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL}, events[512];
	epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &e);
	uint64_t gives_up = now_ns() + 60000000000u;
	for (int i = 0; i < count; i++)
		all[i].number = i;
	for (;;) {
		while (!said_open && dialled < count && dialled - open_links < 200)
			dial(&all[dialled++]);
		int n = epoll_wait(epoll_fd, events, 512, 5);
		for (int i = 0; i < n; i++) {
			struct link *c = events[i].data.ptr;
			if (c) {
				event(c, events[i].events);
				continue;
			}
			if (read(0, line + nline, 1) != 1)
				return 0;
			if (line[nline] != '\n') {
				nline += nline + 1 < sizeof line;
				continue;
			}
			line[nline] = 0, nline = 0;
			if (!strcmp(line, "quit"))
				return 0;
			if (!strcmp(line, "drain"))
				draining = 1;
			if (!strcmp(line, "storm")) {
				for (int k = 0; k < count; k++) {
					struct linger reset = {1, 0};
					setsockopt(all[k].fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
					close(all[k].fd);
					all[k].state = AWAY;
				}
				open_links = 0, refused = replays = resyncs = 0;
				usleep(500000); /* until the service has seen the losses */
				storming = 1, began = now_ns();
				for (int k = 0; k < count; k++) {
					all[k].dialled = began;
					dial(&all[k]);
				}
			}
			if (!strcmp(line, "idle")) {
				puts("{}");
				fflush(stdout);
			}
		}
		uint64_t t = now_ns();
		for (int i = 0; (draining || told) && i < count; i++)
			if (all[i].state == AWAY && all[i].due && all[i].due <= t)
				dial(&all[i]);
		if (!said_open && open_links == count) {
			said_open = 1;
			puts("OPEN");
			fflush(stdout);
		} else if (storming && open_links == count) {
			storming = 0;
			report(began);
		} else if (draining && told == count && open_links == count && replays + resyncs >= count) {
			draining = told = 0, finished = 1;
			report(first_told);
			first_told = 0;
		}
		if (!said_open && t > gives_up) {
			fprintf(stderr, "not all links opened: %d of %d\n", open_links, count);
			return 5;
		}
	}
}
