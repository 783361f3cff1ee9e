/* One viewer's socket: connect, ask, read, stall, be lost; and the ramp and the timers that all of them share.
 *
 * Owns: the descriptors, the queue of those that wait for their turn, the timers, the scratch that every read is into.
 * Must never: block, allocate for a message that comes whole, or let a socket end without counting why.
 */
#ifndef LOAD_CONN_H
#define LOAD_CONN_H

#include <errno.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "load_options.h"
#include "load_stream.h"

enum { SLOTS = 4096, SLOT_NS = 16000000, FRAME_BYTES = 1 << 18, PER_SOURCE = 25000 };

static int epoll_fd;
static struct sockaddr_storage target;
static socklen_t target_len;
static uint8_t scratch[MESSAGE_BYTES + HEAD_BYTES + READ_BYTES + 16];

static uint32_t *queue, queue_head, queue_len; /* sockets that wait for their turn to connect */
static unsigned pending;                           /* sockets between connect and joined: at most opt.ramp */
static int32_t slots[SLOTS];                   /* the timer wheel: heads of lists of sockets */
static uint64_t slot_now;
static unsigned timers;
static char **tokens; /* --tokens, by line */
static unsigned tokens_len;

/* The command in progress, and the sockets that it waits for. */
static enum op { OP_NONE, OP_READY, OP_WAIT, OP_DROP } op;
static struct {
    unsigned left, asked, joined, failed;
    uint64_t started_ns;
    const char *name;
} op_now;

static void die(const char *what)
{
    fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
    exit(3);
}

/* ---- timers: one per socket, to the next 16 ms ---- */

static void timer_clear(struct conn *c)
{
    if (!c->due_ns)
        return;
    if (c->timer_prev >= 0)
        conns[c->timer_prev].timer_next = c->timer_next;
    else
        slots[-c->timer_prev - 1] = c->timer_next;
    if (c->timer_next >= 0)
        conns[c->timer_next].timer_prev = c->timer_prev;
    c->due_ns = 0;
    timers--;
}

static void timer_set(struct conn *c, uint64_t due_ns)
{
    timer_clear(c);
    uint64_t at = due_ns / SLOT_NS + 1;
    if (at <= slot_now)
        at = slot_now + 1;
    if (at >= slot_now + SLOTS) /* past the horizon: looked at there, and put in again */
        at = slot_now + SLOTS - 1;
    int32_t slot = (int32_t)(at % SLOTS), self = (int32_t)(c - conns);
    c->due_ns = due_ns, c->timer_next = slots[slot], c->timer_prev = -slot - 1;
    if (slots[slot] >= 0)
        conns[slots[slot]].timer_prev = self;
    slots[slot] = self;
    timers++;
}

/* ---- one socket's life ---- */

static void op_settle(struct conn *c, bool joined)
{
    if (c->flags & C_PENDING)
        pending--;
    if (c->flags & C_IN_OP) {
        op_now.left--;
        *(joined ? &op_now.joined : &op_now.failed) += 1;
    }
    c->flags &= (uint16_t)~(C_PENDING | C_IN_OP);
    W.recount = true;
}

/* Closes the descriptor and forgets what was half read; the position stays. */
static void conn_shut(struct conn *c)
{
    timer_clear(c);
    if (c->fd >= 0)
        close(c->fd);
    free(c->carry);
    free(c->frag);
    c->fd = -1, c->carry = NULL, c->carry_len = c->carry_cap = 0, c->frag = NULL, c->gen++;
    c->flags &= (uint16_t)~(C_STALLED | C_SERVED);
}

static void conn_end(struct conn *c, const char *where, const char *cause)
{
    char name[44];
    if (c->flags & C_HELLO) {
        K.closed++;
        tally_add(K.closes, cause);
    } else {
        K.failed++;
        snprintf(name, sizeof name, "%s:%s", where, cause);
        tally_add(K.failures, name);
    }
    conn_shut(c);
    c->state = S_CLOSED;
    c->flags &= (uint16_t)~C_HELLO;
    op_settle(c, false);
}

static void conn_fault(struct conn *c, const char *where, int error)
{
    const char *name = strerrorname_np(error);
    conn_end(c, where, error == ECONNRESET ? "reset" : name ? name : "error");
}

static void conn_watch(struct conn *c, int how, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.u64 = (uint64_t)c->gen << 32 | (uint32_t)(c - conns)};
    if (epoll_ctl(epoll_fd, how, c->fd, &e))
        die("epoll_ctl");
}

/* Stops reading; the kernel's buffer fills, its window closes, and the server is left with the rest. */
static void conn_stall(struct conn *c)
{
    c->flags = (uint16_t)((c->flags & ~C_STALL) | C_STALLED);
    conn_watch(c, EPOLL_CTL_MOD, 0);
    W.recount = true;
}

static void conn_joined(struct conn *c)
{
    K.connected++;
    c->joined_ns = read_ns = read_ns ? read_ns : now_ns();
    c->flags = (uint16_t)((c->flags & ~C_RESUMING) | C_HELLO | C_EVER);
    timer_clear(c);
    op_settle(c, true);
}

static void queue_push(struct conn *c)
{
    c->state = S_QUEUED;
    queue[(queue_head + queue_len++) % opt.count] = (uint32_t)(c - conns);
}

/* The address that the next connection comes from; 0: the kernel's choice. There are 28,232 ephemeral ports to a pair
 * of addresses, and a connection that this side closed keeps its port for a minute: so after PER_SOURCE connections
 * the next address has its turn. */
static uint32_t source_next(void)
{
    static uint64_t made;
    uint64_t n = made++, sources = opt.sources ? opt.sources : 1, turn = n / (PER_SOURCE * sources);
    bool loopback = target.ss_family == AF_INET && ntohl(((struct sockaddr_in *)&target)->sin_addr.s_addr) >> 24 == 127;
    if (!loopback || (!opt.sources && !turn))
        return 0;
    turn = turn * sources + n % sources - !opt.sources;
    return 0x7f000000u + opt.source_first + (uint32_t)(turn % 500000);
}

static int conn_socket(uint32_t i)
{
    int fd = socket(target.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    unsigned rcvbuf = i < opt.stall ? opt.stall_rcvbuf : opt.rcvbuf;
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source_next())};
    if (fd < 0)
        return -1;
    if (rcvbuf) /* before connect: it decides the window that is offered */
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof rcvbuf);
    if (from.sin_addr.s_addr) {
        /* so that the port is chosen at connect, by the whole tuple */
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(fd, (struct sockaddr *)&from, sizeof from)) {
            int error = errno;
            close(fd);
            errno = error;
            return -1;
        }
    }
    return fd;
}

static void conn_start(struct conn *c)
{
    c->flags |= C_PENDING;
    pending++;
    if ((c->fd = conn_socket((uint32_t)(c - conns))) < 0) {
        conn_fault(c, "socket", errno);
        return;
    }
    c->state = S_CONNECTING;
    if (connect(c->fd, (struct sockaddr *)&target, target_len) && errno != EINPROGRESS) {
        conn_fault(c, "connect", errno);
        return;
    }
    conn_watch(c, EPOLL_CTL_ADD, EPOLLOUT);
    timer_set(c, now_ns() + (uint64_t)(opt.timeout_s * 1e9));
}

/* A request is put together here. One that does not fit is cut off, and the server's answer to it is counted. */
static struct {
    size_t len;
    char text[16384];
} ask;

__attribute__((format(printf, 1, 2))) static void ask_add(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(ask.text + ask.len, sizeof ask.text - ask.len, format, args);
    va_end(args);
    ask.len += (size_t)n < sizeof ask.text - ask.len ? (size_t)n : sizeof ask.text - ask.len - 1;
}

/* `text` with ROOM and INDEX filled in. */
static void ask_fill(const char *text, uint32_t i)
{
    while (*text) {
        size_t n = strcspn(text, "RI");
        if (n)
            ask_add("%.*s", (int)n, text), text += n;
        else if (!strncmp(text, "INDEX", 5))
            ask_add("%u", opt.index_base + i), text += 5;
        else if (strncmp(text, "ROOM", 4))
            ask_add("%c", *text++);
        else {
            text += 4;
            if (opt.rooms)
                ask_add("room-%u", i % opt.rooms);
            else
                ask_add("%s", opt.room);
        }
    }
}

static void ask_build(const struct conn *c)
{
    uint32_t i = (uint32_t)(c - conns);
    bool know = c->flags & C_RESUMING || (opt.mode == POLL && c->flags & C_INC);
    char vector[80] = "", mark = strchr(opt.path, '?') ? '&' : '?';
    const char *token = opt.token ? opt.token : tokens_len ? tokens[i % tokens_len] : NULL;
    if (know)
        snprintf(vector, sizeof vector, "i%" PRIu64 ".m%" PRIu64 ".c%" PRIu64, c->inc, c->pos[LANE_M], c->pos[LANE_C]);
    ask.len = 0;
    ask_add("GET ");
    ask_fill(opt.path, i);
    if (*opt.query)
        ask_add("%c", mark), ask_fill(opt.query, i), mark = '&';
    if (token)
        ask_add("%ctoken=%s", mark, token), mark = '&';
    if (know && !opt.since_header)
        ask_add("%csince=%s", mark, vector);
    ask_add(" HTTP/1.1\r\nHost: %s:%u\r\n", opt.host, opt.port);
    if (know && opt.since_header)
        ask_add("Last-Event-ID: %s\r\n", vector);
    if (opt.mode == SSE)
        ask_add("Accept: text/event-stream\r\n");
    if (opt.mode == WS) {
        ask_add("Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n");
        ask_add("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
        if (*opt.subprotocol)
            ask_add("Sec-WebSocket-Protocol: %s\r\n", opt.subprotocol);
    }
    ask_add("\r\n");
}

static bool conn_request(struct conn *c)
{
    ask_build(c);
    ssize_t sent = send(c->fd, ask.text, ask.len, MSG_NOSIGNAL);
    if (sent != (ssize_t)ask.len) {
        conn_fault(c, "request", sent < 0 ? errno : ENOBUFS);
        return false;
    }
    c->state = opt.mode == POLL ? S_OPEN : S_HEAD;
    return true;
}

static void conn_connected(struct conn *c)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
        conn_fault(c, "connect", error);
    else if (conn_request(c))
        conn_watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

/* Masked, as a client's must be (RFC 6455 section 5.3). It goes out whole, or counts as not sent. */
static bool conn_frame_send(struct conn *c, uint8_t opcode, const uint8_t *payload, size_t n)
{
    static uint8_t frame[FRAME_BYTES + 16];
    static const uint8_t mask[4] = {0x5a, 0xc3, 0x1e, 0x97};
    size_t head = 2;
    if (n > FRAME_BYTES)
        return false;
    frame[0] = 0x80 | opcode;
    frame[1] = 0x80 | (uint8_t)(n < 126 ? n : n < 65536 ? 126 : 127);
    for (int bytes = n < 126 ? 0 : n < 65536 ? 2 : 8; bytes; bytes--)
        frame[head++] = bytes > 4 ? 0 : (uint8_t)(n >> (8 * (bytes - 1)));
    memcpy(frame + head, mask, 4);
    head += 4;
    for (size_t i = 0; i < n; i++)
        frame[head + i] = payload[i] ^ mask[i & 3];
    return send(c->fd, frame, head + n, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)(head + n);
}

/* ---- reading ---- */

/* Poll: when to ask again, and whether on this connection. */
static void poll_answered(struct conn *c, uint64_t poll_ms, bool close)
{
    timer_clear(c);
    c->flags |= C_SERVED;
    if (close)
        conn_shut(c);
    else if (!poll_ms) {
        conn_request(c);
        return;
    }
    c->state = S_IDLE;
    timer_set(c, now_ns() + poll_ms * 1000000u);
}

/* The server may end a connection between two answers, or with the next question on its way: that goes to a new one. */
static void poll_hung_up(struct conn *c)
{
    bool idle = c->state == S_IDLE;
    uint64_t due = c->due_ns; /* conn_shut forgets it */
    conn_shut(c);
    if (idle) {
        c->state = S_IDLE;
        timer_set(c, due);
    } else
        queue_push(c);
}

static ssize_t stream_head(struct conn *c, const uint8_t *p, size_t n)
{
    struct head h;
    char code[16];
    int got = head_read(p, n, &h);
    const char *wrong = NULL;
    if (!got)
        return 0;
    if (got < 0)
        wrong = "not_http";
    else if (h.status != (opt.mode == WS ? 101 : 200)) {
        snprintf(code, sizeof code, "%d", h.status);
        conn_end(c, "http", code);
        return FEED_ENDED;
    } else if (opt.mode == WS)
        wrong = !h.upgrade ? "no_upgrade" : !h.accept ? "bad_accept" : h.extension ? "extension" : NULL;
    else
        wrong = !h.event_stream ? "content_type" : h.chunked || h.length != -1 ? "not_a_stream" : NULL;
    if (wrong) {
        conn_end(c, "upgrade", wrong);
        return FEED_ENDED;
    }
    c->state = S_OPEN;
    if (!opt.hello)
        conn_joined(c);
    return (ssize_t)h.size;
}

static ssize_t feed(struct conn *c, const uint8_t *p, size_t n)
{
    size_t off = 0;
    if (opt.mode == POLL)
        return poll_feed(c, p, n);
    if (c->state == S_HEAD) {
        ssize_t used = stream_head(c, p, n);
        if (used <= 0)
            return used;
        off = (size_t)used;
    }
    ssize_t used = opt.mode == WS ? ws_feed(c, p + off, n - off) : sse_feed(c, p + off, n - off);
    return used == FEED_ENDED ? FEED_ENDED : (ssize_t)off + used;
}

static void carry_keep(struct conn *c, const uint8_t *p, size_t n)
{
    if (!n) {
        free(c->carry);
        c->carry = NULL, c->carry_len = c->carry_cap = 0;
        return;
    }
    if (n > c->carry_cap) {
        c->carry_cap = (uint32_t)(n < 256 ? 512 : n * 2);
        free(c->carry);
        if (!(c->carry = malloc(c->carry_cap)))
            abort();
    }
    memcpy(c->carry, p, n);
    c->carry_len = (uint32_t)n;
}

static void conn_eof(struct conn *c)
{
    if (c->state == S_IDLE || (opt.mode == POLL && c->flags & C_SERVED && !c->carry_len))
        poll_hung_up(c);
    else
        conn_end(c, c->state == S_HEAD ? "head" : "join", c->carry_len || c->frag ? "eof_inside" : "eof");
}

/* One recv per readiness: epoll is level-triggered, so a second one would mostly be paid for hearing EAGAIN. */
static void conn_readable(struct conn *c)
{
    size_t kept = c->carry_len, most = opt.split ? (size_t)(c - conns) % READ_BYTES + 1 : (size_t)opt.read_bytes;
    ssize_t got = recv(c->fd, scratch + kept, most, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    K.reads++;
    read_ns = 0;
    if (got < 0) {
        if (opt.mode == POLL && c->flags & C_SERVED && !kept)
            poll_hung_up(c);
        else
            conn_fault(c, "join", errno);
        return;
    }
    if (!got) {
        conn_eof(c);
        return;
    }
    K.bytes += (uint64_t)got;
    if (c->state == S_IDLE) {
        conn_end(c, "http", "surplus");
        return;
    }
    if (kept)
        memcpy(scratch, c->carry, kept);
    size_t n = kept + (size_t)got;
    ssize_t used = feed(c, scratch, n);
    if (used == FEED_ENDED || c->fd < 0)
        return;
    if (kept || (size_t)used < n)
        carry_keep(c, scratch + used, n - (size_t)used);
    if (c->flags & C_STALL && c->flags & C_HELLO)
        conn_stall(c);
}

static void conn_event(struct conn *c, uint32_t events)
{
    if (c->state == S_CONNECTING)
        conn_connected(c);
    else if (events & EPOLLIN)
        conn_readable(c);
    else if (events & (EPOLLERR | EPOLLHUP)) { /* of a stalled one too: it can't be read any more anyway */
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        conn_fault(c, "join", error ? error : ECONNRESET);
    }
}

static void conn_due(struct conn *c)
{
    if (c->state != S_IDLE)
        conn_end(c, c->state == S_CONNECTING ? "connect" : "join", "timeout");
    else if (c->fd < 0)
        queue_push(c);
    else
        conn_request(c);
}

static void timers_run(void)
{
    uint64_t now = now_ns(), slot = now / SLOT_NS;
    if (!timers || slot - slot_now > SLOTS)
        slot_now = timers ? slot - SLOTS : slot;
    while (slot_now < slot) {
        int32_t i = slots[++slot_now % SLOTS], next;
        slots[slot_now % SLOTS] = -1;
        for (; i >= 0; i = next) {
            struct conn *c = &conns[i];
            uint64_t due = c->due_ns;
            next = c->timer_next;
            c->due_ns = 0, timers--;
            if (due > now)
                timer_set(c, due);
            else
                conn_due(c);
        }
    }
}

static void ramp_run(void)
{
    while (queue_len && pending < opt.ramp) {
        struct conn *c = &conns[queue[queue_head]];
        queue_head = (queue_head + 1) % opt.count;
        queue_len--;
        conn_start(c);
    }
}

#endif
