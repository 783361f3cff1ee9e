/* The load client: one process, one thread, thousands of viewers, every position of both lanes checked.
 *
 * Owns: the commands and the loop. One socket's life is load_conn.h's, what a stream may hold load_stream.h's, what a
 * lane may hold load_check.h's, what is counted load_count.h's. bench/load.py builds it, starts it and speaks to it.
 * Must never: block on a socket, or go on in silence when it cannot check something.
 *
 * Commands come as lines on stdin; each is answered by one line of JSON on stdout, in their order. The first line out
 * is `ready`, when every socket has joined or failed; commands wait for it.
 *   stats                  everything counted since the last reset (`open` and `stalled`: sockets now)
 *   reset                  counters and histograms to zero; positions stay
 *   wait m|c N SECONDS     until every socket that has joined once and is not stalled has position N or more on the
 *                          lane. One that is lost below N is behind: when only such are, the answer comes at once
 *   positions              least and greatest position per lane, of the sockets that are joined and not stalled
 *   stall K / unstall      the first K stop reading / everybody reads
 *   drop K                 close the first K that are joined and not stalled; connect them again with their vectors
 *   reopen                 connect every lost or failed socket again, with its vector if it has one
 *   send TEXT              a text message on the first joined WebSocket
 *   quit                   (or the end of stdin, once the commands before it are answered)
 * It exits with 0; 2 is a flag that it does not know, 3 an internal error.
 */
#define _GNU_SOURCE
#include <netdb.h>
#include <signal.h>
#include <sys/resource.h>

#include "load_conn.h"

enum { EVENTS = 512 };
#define STDIN_TAG UINT64_MAX /* no socket's: an index never gets there */

static uint64_t reset_ns;
static struct rusage reset_usage;

/* ---- commands ---- */

static bool is_reading(const struct conn *c)
{
    return c->flags & C_HELLO && !(c->flags & C_STALLED);
}

static double since_s(uint64_t ns)
{
    return (double)(now_ns() - ns) / 1e9;
}

static double used_s(const struct timeval *a, const struct timeval *b)
{
    return (double)(a->tv_sec - b->tv_sec) + (double)(a->tv_usec - b->tv_usec) / 1e6;
}

static void do_reset(void)
{
    memset(&K, 0, sizeof K);
    reset_ns = now_ns();
    getrusage(RUSAGE_SELF, &reset_usage);
}

static void do_stats(void)
{
    struct rusage u;
    unsigned open = 0, stalled = 0;
    for (unsigned i = 0; i < opt.count; i++) {
        open += !!(conns[i].flags & C_HELLO);
        stalled += !!(conns[i].flags & C_STALLED);
    }
    getrusage(RUSAGE_SELF, &u);
    out("{\"ev\":\"stats\",\"seconds\":%.6f,\"open\":%u,\"stalled\":%u", since_s(reset_ns), open, stalled);
    out_counts();
    out(",\"cpu\":{\"user_s\":%.6f,\"sys_s\":%.6f}}", used_s(&u.ru_utime, &reset_usage.ru_utime),
        used_s(&u.ru_stime, &reset_usage.ru_stime));
}

static void do_positions(void)
{
    uint64_t low[LANES] = {UINT64_MAX, UINT64_MAX}, high[LANES] = {0};
    unsigned n = 0;
    for (unsigned i = 0; i < opt.count; i++) {
        if (!is_reading(&conns[i]))
            continue;
        n++;
        for (int l = 0; l < LANES; l++) {
            low[l] = conns[i].pos[l] < low[l] ? conns[i].pos[l] : low[l];
            high[l] = conns[i].pos[l] > high[l] ? conns[i].pos[l] : high[l];
        }
    }
    out("{\"ev\":\"positions\",\"sockets\":%u", n);
    for (int l = 0; l < LANES; l++)
        out(",\"%c\":{\"min\":%" PRIu64 ",\"max\":%" PRIu64 "}", "mc"[l], n ? low[l] : 0, high[l]);
    out("}");
}

static void do_stall(unsigned k)
{
    unsigned n = 0;
    for (unsigned i = 0; i < opt.count && i < k; i++) {
        struct conn *c = &conns[i];
        if (is_reading(c) && c->fd >= 0) {
            setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &opt.stall_rcvbuf, sizeof opt.stall_rcvbuf);
            conn_stall(c);
        }
        n += !!(c->flags & C_STALLED);
    }
    out("{\"ev\":\"stall\",\"stalled\":%u}", n);
}

static void do_unstall(void)
{
    unsigned n = 0;
    for (unsigned i = 0; i < opt.count; i++)
        if (conns[i].flags & C_STALLED) {
            conns[i].flags &= (uint16_t)~C_STALLED;
            conn_watch(&conns[i], EPOLL_CTL_MOD, EPOLLIN);
            n++;
        }
    W.recount = true;
    out("{\"ev\":\"unstall\",\"resumed\":%u}", n);
}

static void op_begin(enum op what, const char *name)
{
    op = what;
    memset(&op_now, 0, sizeof op_now);
    op_now.name = name;
    op_now.started_ns = now_ns();
}

static void op_take(struct conn *c)
{
    c->flags |= C_IN_OP;
    if (c->flags & C_BASED << LANE_M && c->flags & C_BASED << LANE_C && c->flags & C_INC)
        c->flags |= C_RESUMING;
    queue_push(c);
    op_now.left++, op_now.asked++;
}

static void do_drop(unsigned k, bool lost)
{
    op_begin(OP_DROP, lost ? "reopen" : "drop");
    for (unsigned i = 0; i < opt.count && op_now.asked < k; i++) {
        struct conn *c = &conns[i];
        if (lost ? c->state != S_CLOSED : !is_reading(c) || c->state == S_QUEUED || c->state == S_CONNECTING)
            continue;
        if (!lost)
            K.dropped++;
        conn_shut(c);
        c->flags &= (uint16_t)~C_HELLO;
        op_take(c);
    }
    W.recount = true;
}

static void do_send(const char *text, size_t n)
{
    unsigned i = 0;
    while (i < opt.count && !(opt.mode == WS && conns[i].flags & C_HELLO))
        i++;
    bool ok = i < opt.count && conn_frame_send(&conns[i], 1, (const uint8_t *)text, n);
    out("{\"ev\":\"send\",\"ok\":%s,\"socket\":%d}", ok ? "true" : "false", i < opt.count ? (int)i : -1);
}

/* A socket that is queued or connecting can still catch up; one that has joined and was lost cannot. */
static void wait_count(void)
{
    W.behind = W.lost = 0;
    for (unsigned i = 0; i < opt.count; i++) {
        const struct conn *c = &conns[i];
        if (c->flags & C_EVER && !(c->flags & C_STALLED) && c->pos[W.lane] < W.target) {
            W.behind++;
            W.lost += c->state == S_CLOSED;
        }
    }
    W.recount = false;
}

/* Answers the command in progress if it is done. */
static void op_check(void)
{
    if (op == OP_WAIT) {
        bool over = now_ns() >= W.deadline_ns;
        if (!over && W.behind > W.lost && !W.recount)
            return;
        wait_count();
        if (!over && W.behind > W.lost)
            return;
        W.active = false;
        out("{\"ev\":\"wait\",\"ok\":%s,", W.behind ? "false" : "true");
        out("\"behind\":%" PRIu64 ",\"lost\":%" PRIu64, W.behind, W.lost);
    } else if (op != OP_NONE && !op_now.left) {
        out("{\"ev\":\"%s\",\"%s\":%u,\"failed\":%u", op_now.name, op == OP_READY ? "connected" : "reconnected",
            op_now.joined, op_now.failed);
        out_tally("failures", K.failures);
    } else
        return;
    out(",\"seconds\":%.6f}", since_s(op_now.started_ns));
    op = OP_NONE;
    out_send();
}

static void do_wait(char lane, uint64_t n, double seconds)
{
    op_begin(OP_WAIT, "wait");
    W = (struct wait){.active = true, .recount = true, .lane = lane == 'm' ? LANE_M : LANE_C, .target = n};
    W.deadline_ns = op_now.started_ns + (uint64_t)(seconds * 1e9);
}

static void command(char *line, size_t n)
{
    char lane[2];
    uint64_t number;
    double seconds;
    unsigned k;
    if (!strcmp(line, "stats"))
        do_stats();
    else if (!strcmp(line, "reset"))
        do_reset(), out("{\"ev\":\"reset\"}");
    else if (sscanf(line, "wait %1[mc] %" SCNu64 " %lf", lane, &number, &seconds) == 3 && seconds >= 0)
        do_wait(*lane, number, seconds);
    else if (!strcmp(line, "positions"))
        do_positions();
    else if (sscanf(line, "stall %u", &k) == 1)
        do_stall(k);
    else if (!strcmp(line, "unstall"))
        do_unstall();
    else if (sscanf(line, "drop %u", &k) == 1)
        do_drop(k, false);
    else if (!strcmp(line, "reopen"))
        do_drop(UINT32_MAX, true);
    else if (!strncmp(line, "send ", 5))
        do_send(line + 5, n - 5);
    else if (!strcmp(line, "quit"))
        exit(0);
    else
        out("{\"ev\":\"error\",\"error\":\"no such command\"}");
    if (op == OP_NONE)
        out_send();
}

static char lines[FRAME_BYTES];
static size_t lines_len;
static bool stdin_over, stdin_is_file;

static void stdin_read(void)
{
    ssize_t n = read(STDIN_FILENO, lines + lines_len, sizeof lines - lines_len);
    if (n > 0)
        lines_len += (size_t)n;
    else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        stdin_over = true;
        epoll_ctl(epoll_fd, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
    }
}

/* Commands in their order, each when the one before it is answered; only `quit` goes ahead of one in progress. */
static void commands_run(void)
{
    char *end;
    for (op_check(); op == OP_NONE && (end = memchr(lines, '\n', lines_len)); op_check()) {
        size_t n = (size_t)(end - lines);
        *end = 0;
        if (n)
            command(lines, n);
        lines_len -= n + 1;
        memmove(lines, end + 1, lines_len);
    }
    if (op == OP_NONE && stdin_over)
        exit(0);
    const char *last = lines + lines_len - 5;
    if (lines_len >= 5 && !memcmp(last, "quit\n", 5) && (last == lines || last[-1] == '\n'))
        exit(0);
    if (lines_len == sizeof lines) {
        fprintf(stderr, "load: more commands than fit\n");
        exit(3);
    }
}

/* ---- the process ---- */

static int loop_timeout_ms(void)
{
    int ms = timers ? SLOT_NS / 1000000 : -1;
    if ((queue_len && pending < opt.ramp) || (stdin_is_file && !stdin_over))
        return 0;
    if (op == OP_WAIT) {
        uint64_t now = now_ns(), left = W.deadline_ns > now ? (W.deadline_ns - now) / 1000000 + 1 : 0;
        if (W.behind <= W.lost || W.recount)
            return 0;
        if (ms < 0 || left < (uint64_t)ms)
            ms = left < 60000 ? (int)left : 60000;
    } else if (op != OP_NONE && !op_now.left)
        return 0;
    return ms;
}

static void loop(void)
{
    static struct epoll_event events[EVENTS];
    for (;;) {
        commands_run();
        ramp_run();
        int n = epoll_wait(epoll_fd, events, EVENTS, loop_timeout_ms());
        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        bool asked = stdin_is_file && !stdin_over;
        for (int i = 0; i < n; i++) {
            if (events[i].data.u64 == STDIN_TAG) {
                asked = true;
                continue;
            }
            struct conn *c = &conns[(uint32_t)events[i].data.u64];
            if (c->gen == events[i].data.u64 >> 32 && c->fd >= 0)
                conn_event(c, events[i].events);
        }
        timers_run();
        if (asked)
            stdin_read();
    }
}

static void setup_target(void)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    char port[8];
    snprintf(port, sizeof port, "%u", opt.port);
    int error = getaddrinfo(opt.host, port, &hints, &found);
    if (error) {
        fprintf(stderr, "load: %s: %s\n", opt.host, gai_strerror(error));
        exit(2);
    }
    memcpy(&target, found->ai_addr, found->ai_addrlen);
    target_len = found->ai_addrlen;
    freeaddrinfo(found);
}

static void setup_tokens(void)
{
    FILE *file = fopen(opt.tokens, "r");
    size_t size = 0;
    char *line = NULL;
    if (!file)
        die(opt.tokens);
    for (ssize_t n; (n = getline(&line, &size, file)) > 0; line = NULL, size = 0) {
        line[strcspn(line, "\r\n")] = 0;
        if (!(tokens = realloc(tokens, (tokens_len + 1) * sizeof *tokens)))
            die("memory");
        tokens[tokens_len++] = line;
    }
    free(line);
    fclose(file);
}

static void setup_process(void)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    if (opt.cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(opt.cpu, &set);
        if (sched_setaffinity(0, sizeof set, &set))
            die("sched_setaffinity");
    }
    struct epoll_event e = {.events = EPOLLIN, .data.u64 = STDIN_TAG};
    if ((epoll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("epoll_create1");
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &e)) /* EPERM: a file, which is always readable */
        stdin_is_file = true;
    slot_now = now_ns() / SLOT_NS;
    memset(slots, 0xff, sizeof slots);
}

static void setup_sockets(void)
{
    struct vec v = {0};
    if (opt.since) {
        const uint8_t *s = (const uint8_t *)opt.since, *end = s + strlen(opt.since);
        if (vec_read(s, end, &v) != end) {
            fprintf(stderr, "load: --since must look like i3.m11.c340\n");
            exit(2);
        }
    }
    queue = calloc(opt.count, sizeof *queue);
    if (!queue || posix_memalign((void **)&conns, 64, opt.count * sizeof *conns))
        die("memory");
    memset(conns, 0, opt.count * sizeof *conns);
    op_begin(OP_READY, "ready");
    for (unsigned i = 0; i < opt.count; i++) {
        struct conn *c = &conns[i];
        c->fd = -1;
        if (opt.since) {
            c->inc = v.inc, c->flags |= C_INC;
            lane_base(c, LANE_M, v.pos[LANE_M]);
            lane_base(c, LANE_C, v.pos[LANE_C]);
        }
        op_take(c);
        if (i < opt.stall)
            c->flags |= C_STALL;
    }
}

int main(int argc, char **argv)
{
    options(argc, argv);
    setup_process();
    setup_target();
    setup_sockets();
    if (opt.tokens)
        setup_tokens();
    do_reset();
    loop();
}
