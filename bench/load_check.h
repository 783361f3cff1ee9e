/* The checker: what a viewer was sent, against what a viewer must be sent.
 *
 * Owns: the socket's struct, the reading of ids, vectors and the top of a message, and the rules of a lane.
 * Must never: do I/O, allocate, or parse JSON in general.
 *
 * A message is read by looking for "t", "id", "since", "from" and "to" before its first nested object or array, and
 * within its first TOP_BYTES. So the server must write `t` first and the id next, as compact JSON. One that does not is
 * reported (bad_payload, bad_id), never passed over.
 *
 * The rules, per socket and lane, `last` being its position and `id` what has come:
 *   id == last + 1   right.
 *   id >  last + 1   missed += id - last - 1; last = id.
 *   id == last       repeated += 1.
 *   id <  last       repeated += 1, out_of_order += 1.
 *     Either way, if `id` is one of the newest 64 positions, was passed over (by a miss or a gap) and has not come
 *     since, it is late and no repeat: out_of_order += 1 only. What was counted as missed stays counted.
 *   gap from..to     right when both are of one lane, from == last + 1 and to >= from; otherwise bad_gap += 1. Either
 *                    way last = to if that is higher, so that one wrong gap is not counted again as a miss.
 *   hello.since      the position before the replay: last = since on both lanes. On a resume it must equal what was
 *                    sent, or bad_resume += 1. Malformed, or a second one: bad_hello. A position before it: no_hello.
 *   batch            chat's; score, del, state: must's. With another lane's id, or none, or one that is not a plain
 *                    decimal from 1 up: bad_id. Only a state may come without (the one that is sent on join).
 */
#ifndef LOAD_CHECK_H
#define LOAD_CHECK_H

#include <stdbool.h>
#include <time.h>

#include "load_count.h"

enum { TOP_BYTES = 200 };

enum state { S_NONE, S_QUEUED, S_CONNECTING, S_HEAD, S_OPEN, S_IDLE, S_CLOSED };

enum {
    C_BASED = 1,      /* << lane: the lane has a position to check against */
    C_HELLO = 4,      /* joined on this connection */
    C_EVER = 8,       /* joined once: losing it is a loss */
    C_RESUMING = 16,  /* a vector was sent: hello must repeat it */
    C_STALL = 32,     /* to stop reading once joined */
    C_STALLED = 64,   /* not reading */
    C_IN_OP = 128,    /* the command in progress waits for this one */
    C_PENDING = 256,  /* counted in the ramp */
    C_SERVED = 512,   /* poll: this connection has had an answer */
    C_INC = 1024,     /* the incarnation is known */
};

struct frag {
    size_t len, cap;
    uint8_t op;
    uint8_t bytes[];
};

/* The first 64 bytes are what a frame touches. `carry` (the beginning of an unfinished frame) and `frag` (an unfinished
 * message) are allocated when there is one, and freed when it is whole or the socket ends. */
struct conn {
    int fd;
    uint8_t state;
    uint16_t flags;
    uint64_t pos[LANES];
    uint64_t seen[LANES]; /* bit k: position pos - k was not passed over */
    uint64_t joined_ns;
    uint8_t *carry;
    uint32_t carry_len;
    uint32_t gen; /* an event of an earlier descriptor must not reach this one */
    uint64_t inc; /* incarnation */
    uint64_t due_ns;
    int32_t timer_next, timer_prev;
    struct frag *frag;
    uint32_t carry_cap;
} __attribute__((aligned(64)));

/* What a `wait` waits for. `behind` is kept up as positions move; it and `lost`, its part for which there is no hope,
 * are counted anew on `recount`. */
static struct wait {
    bool active, recount;
    int lane;
    uint64_t target, behind, lost, deadline_ns;
} W;

static struct conn *conns;
static uint64_t read_ns; /* when the read being parsed returned; 0 until somebody asks */

static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void conn_joined(struct conn *c);

static void flaw(struct conn *c, enum flaw f, uint64_t n, int lane, uint64_t got, const uint8_t *text, size_t len)
{
    K.flaw[f] += n;
    if (lane >= 0 && f < LANE_FLAWS)
        K.lane[lane].flaw[f] += n;
    if (K.examples < EXAMPLES)
        count_example(f, (uint32_t)(c - conns), lane, lane < 0 ? 0 : c->pos[lane], got, text, len);
}

/* ---- reading ---- */

/* A plain decimal u64: no sign, no leading zero. NULL if it is none; otherwise what follows it. */
static inline const uint8_t *num_read(const uint8_t *s, const uint8_t *end, uint64_t *value)
{
    const uint8_t *start = s;
    uint64_t v = 0;
    for (; s < end && (uint8_t)(*s - '0') < 10; s++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
            return NULL;
    if (s == start || (*start == '0' && s - start > 1))
        return NULL;
    *value = v;
    return s;
}

/* `c345"` with its closing quote. */
static inline const uint8_t *id_read(const uint8_t *s, const uint8_t *end, int *lane, uint64_t *id)
{
    if (s >= end || (*s != 'm' && *s != 'c'))
        return NULL;
    *lane = *s == 'm' ? LANE_M : LANE_C;
    s = num_read(s + 1, end, id);
    return s && *id && s < end && *s == '"' ? s + 1 : NULL;
}

struct vec {
    uint64_t inc, pos[LANES];
};

/* `i3.m11.c340`; NULL or what follows. */
static const uint8_t *vec_read(const uint8_t *s, const uint8_t *end, struct vec *v)
{
    uint64_t *const part[] = {&v->inc, &v->pos[LANE_M], &v->pos[LANE_C]};
    for (int i = 0; i < 3; i++) {
        if (i && (s >= end || *s++ != '.'))
            return NULL;
        if (s >= end || *s++ != (uint8_t)"imc"[i] || !(s = num_read(s, end, part[i])))
            return NULL;
    }
    return s;
}

/* What follows `key` (given with its quotes, colon, and a string's opening quote) among the object's top members. */
static const uint8_t *top_find(const uint8_t *p, size_t n, const char *key)
{
    size_t bound = 1;
    while (bound < n && bound < TOP_BYTES && p[bound] != '{' && p[bound] != '[')
        bound++;
    const uint8_t *at = memmem(p, bound, key, strlen(key));
    return at ? at + strlen(key) : NULL;
}

/* Eight bytes at a time while they are ASCII. RFC 3629: no overlong forms, no surrogates, nothing above U+10FFFF. */
static bool utf8_ok(const uint8_t *p, size_t n)
{
    const uint8_t *end = p + n;
    while (p < end) {
        uint64_t w;
        while (end - p >= 8 && (memcpy(&w, p, 8), !(w & 0x8080808080808080u)))
            p += 8;
        if (p == end)
            break;
        uint8_t b = *p++;
        if (b < 0x80)
            continue;
        int more = b >= 0xf0 ? 3 : b >= 0xe0 ? 2 : 1;
        uint8_t low = b == 0xe0 ? 0xa0 : b == 0xf0 ? 0x90 : 0x80, high = b == 0xed ? 0x9f : b == 0xf4 ? 0x8f : 0xbf;
        if (b < 0xc2 || b > 0xf4 || end - p < more)
            return false;
        for (; more; more--, p++, low = 0x80, high = 0xbf)
            if (*p < low || *p > high)
                return false;
    }
    return true;
}

enum kind { T_OTHER, T_BATCH, T_SCORE, T_DEL, T_STATE, T_HELLO, T_GAP, T_ACK, T_RECONNECT, KINDS };
static const struct {
    const char *name;
    uint8_t len;
} kind_names[KINDS] = {
    {"", 0},      {"batch", 5}, {"score", 5}, {"del", 3},       {"state", 5},
    {"hello", 5}, {"gap", 3},   {"ack", 3},   {"reconnect", 9},
};

struct msg {
    enum kind kind;
    int lane;              /* -1: no position in it */
    uint64_t from, id;     /* of a gap: both ends; otherwise the id */
    struct vec since;      /* of a hello */
    bool since_ok;
    const uint8_t *t;      /* its type, as text */
    size_t t_len;
    const uint8_t *p, *rest, *end; /* the payload; where a stamp may begin */
};

/* Reads the top of a payload: FLAWS, or the flaw that makes it unreadable. */
static enum flaw msg_read(const uint8_t *p, size_t n, struct msg *m)
{
    const uint8_t *end = p + n, *s, *q;
    m->kind = T_OTHER, m->lane = -1, m->p = p, m->end = end;
    if (n < 9 || p[0] != '{' || p[n - 1] != '}')
        return F_BAD_PAYLOAD;
    s = memcmp(p, "{\"t\":\"", 6) ? top_find(p, n, "\"t\":\"") : p + 6;
    if (!s || !(q = memchr(s, '"', (size_t)(end - s) < 32 ? (size_t)(end - s) : 32)))
        return F_BAD_PAYLOAD;
    m->t = s, m->t_len = (size_t)(q - s), m->rest = q;
    for (int k = 1; k < KINDS; k++)
        if (m->t_len == kind_names[k].len && !memcmp(s, kind_names[k].name, m->t_len)) {
            m->kind = (enum kind)k;
            break;
        }
    if (m->kind >= T_BATCH && m->kind <= T_STATE) {
        bool next = end - q > 8 && !memcmp(q, "\",\"id\":\"", 8);
        s = next ? q + 8 : top_find(p, n, "\"id\":\"");
        if (!s)
            return m->kind == T_STATE && !top_find(p, n, "\"id\":") ? FLAWS : F_BAD_ID;
        if (!(m->rest = id_read(s, end, &m->lane, &m->id)) || m->lane != (m->kind == T_BATCH ? LANE_C : LANE_M))
            return F_BAD_ID;
    } else if (m->kind == T_GAP) {
        const uint8_t *from = top_find(p, n, "\"from\":\""), *to = top_find(p, n, "\"to\":\"");
        int to_lane;
        if (!from || !to || !id_read(from, end, &m->lane, &m->from) || !id_read(to, end, &to_lane, &m->id))
            return F_BAD_ID;
        if (m->lane != to_lane)
            return F_BAD_GAP;
    } else if (m->kind == T_HELLO) {
        s = top_find(p, n, "\"since\":\"");
        s = s ? vec_read(s, end, &m->since) : NULL;
        m->since_ok = s && s < end && *s == '"';
    }
    return FLAWS;
}

/* ---- rules ---- */

static inline void lane_set(struct conn *c, int lane, uint64_t to)
{
    bool reaches = W.active && lane == W.lane && c->pos[lane] < W.target && to >= W.target;
    if (__builtin_expect(reaches, 0) && !(c->flags & C_STALLED))
        W.behind -= W.behind > 0; /* once nobody is left it is counted again, and exactly */
    c->pos[lane] = to;
}

static void lane_base(struct conn *c, int lane, uint64_t at)
{
    c->pos[lane] = at;
    c->seen[lane] = ~(uint64_t)0;
    c->flags |= (uint16_t)(C_BASED << lane);
    W.recount = true;
}

/* Moves up to `to`; what lies between was passed over. */
static inline void lane_move(struct conn *c, int lane, uint64_t to)
{
    uint64_t by = to - c->pos[lane];
    c->seen[lane] = by < 64 ? c->seen[lane] << by | 1 : 1;
    lane_set(c, lane, to);
}

static void lane_wrong(struct conn *c, const struct msg *m)
{
    int lane = m->lane;
    uint64_t last = c->pos[lane], id = m->id;
    size_t n = (size_t)(m->end - m->p);
    if (id > last) {
        flaw(c, F_MISSED, id - last - 1, lane, id, m->p, n);
        lane_move(c, lane, id);
        return;
    }
    bool late = last - id < 64 && !(c->seen[lane] >> (last - id) & 1);
    if (late)
        c->seen[lane] |= (uint64_t)1 << (last - id);
    else
        flaw(c, F_REPEATED, 1, lane, id, m->p, n);
    if (late || id < last)
        flaw(c, F_OUT_OF_ORDER, 1, lane, id, m->p, n);
}

static void gap_take(struct conn *c, const struct msg *m)
{
    int lane = m->lane;
    K.lane[lane].gaps++;
    if (m->from != c->pos[lane] + 1 || m->id < m->from)
        flaw(c, F_BAD_GAP, 1, lane, m->from, m->p, (size_t)(m->end - m->p));
    if (m->id > c->pos[lane]) {
        K.lane[lane].gapped += m->id - c->pos[lane];
        lane_move(c, lane, m->id);
        c->seen[lane] &= ~(uint64_t)1; /* the newest one of a gap has not come either */
    }
}

/* `ts_ns` and its number, as a member or inside a text ("ts_ns:123", or with escaped quotes), by this host's
 * CLOCK_MONOTONIC. The first one counts: of a batch, that is its oldest comment. Stamped before this socket joined: a
 * replay, not a latency. */
static void stamp_take(struct conn *c, int lane, const uint8_t *p, const uint8_t *end)
{
    for (; (p = memchr(p, '_', (size_t)(end - p))); p++) {
        if (end - p < 5 || p[-2] != 't' || p[-1] != 's' || p[1] != 'n' || p[2] != 's')
            continue;
        uint64_t stamp;
        const uint8_t *s = p + 3;
        while (s < end && (*s == '"' || *s == '\\' || *s == ':' || *s == ' '))
            s++;
        if (!num_read(s, end, &stamp))
            continue;
        if (!read_ns)
            read_ns = now_ns();
        if (stamp < c->joined_ns)
            K.lane[lane].replayed++;
        else if (stamp > read_ns)
            K.stamps_ahead++;
        else
            hist_add(&K.lane[lane].latency, read_ns - stamp);
        return;
    }
}

static void hello_take(struct conn *c, const struct msg *m)
{
    size_t n = (size_t)(m->end - m->p);
    const struct vec *v = &m->since;
    K.hellos++;
    if (c->flags & C_HELLO || !m->since_ok)
        flaw(c, F_BAD_HELLO, 1, -1, 0, m->p, n);
    else if (c->flags & C_RESUMING && v->inc == c->inc && !memcmp(v->pos, c->pos, sizeof v->pos))
        K.resumed++;
    else {
        if (c->flags & C_RESUMING)
            flaw(c, F_BAD_RESUME, 1, -1, 0, m->p, n);
        c->inc = v->inc, c->flags |= C_INC;
        lane_base(c, LANE_M, v->pos[LANE_M]);
        lane_base(c, LANE_C, v->pos[LANE_C]);
    }
    if (!(c->flags & C_HELLO))
        conn_joined(c);
}

/* One message, read and held against the rules. False if it could not be read. */
static bool msg_take(struct conn *c, const uint8_t *p, size_t n, bool hello_first, struct msg *m)
{
    enum flaw f = utf8_ok(p, n) ? msg_read(p, n, m) : F_BAD_UTF8;
    if (f != FLAWS) {
        flaw(c, f, 1, f < LANE_FLAWS ? m->lane : -1, 0, p, n);
        return false;
    }
    if (m->lane < 0) {
        if (m->kind == T_HELLO)
            hello_take(c, m);
        else
            (*(m->kind == T_ACK ? &K.acks : m->kind == T_RECONNECT ? &K.hints : &K.others))++;
        return true;
    }
    if (hello_first && !(c->flags & C_HELLO))
        flaw(c, F_NO_HELLO, 1, m->lane, m->id, p, n);
    if (!(c->flags & C_BASED << m->lane))
        lane_base(c, m->lane, (m->kind == T_GAP ? m->from : m->id) - 1);
    if (m->kind == T_GAP) {
        gap_take(c, m);
        return true;
    }
    K.lane[m->lane].messages++;
    if (m->id == c->pos[m->lane] + 1)
        lane_move(c, m->lane, m->id);
    else
        lane_wrong(c, m);
    stamp_take(c, m->lane, m->rest, m->end);
    return true;
}

#endif
