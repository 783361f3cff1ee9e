/* The bytes of a viewer's socket, cut into messages: HTTP answer heads, WebSocket frames, SSE events, poll answers.
 *
 * Owns: what may stand in a stream, and the names of what may not.
 * Must never: read or write a socket. A feed takes what there is, from its beginning, and returns how much of it is
 * finished with; the caller keeps the rest and brings it again with more behind it. FEED_ENDED: `c` has been ended.
 *
 *   bad_frame      RFC 6455 broken: reserved bits or opcodes, a length not in its shortest form, a control frame that
 *                  is long or in pieces, a continuation of nothing, a new message inside an unfinished one, a bad close
 *                  payload, a message over MESSAGE_BYTES.
 *   masked_frame   a server's frame with a mask. After either of these the stream means nothing: the socket is closed.
 *   bad_utf8       a text that is none. bad_payload: one that is not a JSON object with a `t`; a binary message.
 *   bad_event      SSE: an unknown field, a second data line, an event named otherwise than its `t`, one without data
 *                  that has a name or an id, one that is unfinished at MESSAGE_BYTES.
 *   bad_vector     SSE: `id:` is missing, malformed, of another incarnation, or disagrees with the data's id or with
 *                  the position on the other lane. Poll: `since` disagrees with the positions after its messages.
 */
#ifndef LOAD_STREAM_H
#define LOAD_STREAM_H

#include <strings.h>
#include <sys/types.h>

#include "load_check.h"
#include "load_options.h"

enum { MESSAGE_BYTES = 1 << 20, HEAD_BYTES = 16 << 10, FEED_ENDED = -1 };

/* load.c's side of it */
static void conn_end(struct conn *c, const char *where, const char *cause);
static bool conn_frame_send(struct conn *c, uint8_t opcode, const uint8_t *payload, size_t n);
static void op_settle(struct conn *c, bool joined);
static void poll_answered(struct conn *c, uint64_t poll_ms, bool close);

static ssize_t feed_bad(struct conn *c, enum flaw f, const uint8_t *at, size_t n)
{
    flaw(c, f, 1, -1, 0, at, n);
    conn_end(c, "join", "protocol");
    return FEED_ENDED;
}

/* ---- HTTP ---- */

struct head {
    size_t size;
    int status;
    int64_t length; /* -1: not said */
    bool accept, upgrade, extension, event_stream, chunked, close;
};

static bool name_is(const uint8_t *line, size_t n, const char *name, const uint8_t **value, size_t *value_len)
{
    size_t k = strlen(name);
    if (n <= k || line[k] != ':' || strncasecmp((const char *)line, name, k))
        return false;
    const uint8_t *v = line + k + 1, *end = line + n;
    while (v < end && *v == ' ')
        v++;
    *value = v, *value_len = (size_t)(end - v);
    return true;
}

static void head_line(struct head *h, const uint8_t *line, size_t n)
{
    /* the answer to the one key that every viewer sends, the example of RFC 6455 section 1.3 */
    static const char accept[] = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    const uint8_t *v;
    size_t k;
    uint64_t length = 0;
    if (name_is(line, n, "sec-websocket-accept", &v, &k))
        h->accept = k == sizeof accept - 1 && !memcmp(v, accept, k);
    else if (name_is(line, n, "upgrade", &v, &k))
        h->upgrade = k == 9 && !strncasecmp((const char *)v, "websocket", 9);
    else if (name_is(line, n, "sec-websocket-extensions", &v, &k))
        h->extension = true;
    else if (name_is(line, n, "content-type", &v, &k))
        h->event_stream = k >= 17 && !strncasecmp((const char *)v, "text/event-stream", 17);
    else if (name_is(line, n, "transfer-encoding", &v, &k))
        h->chunked = true;
    else if (name_is(line, n, "connection", &v, &k))
        h->close = k == 5 && !strncasecmp((const char *)v, "close", 5);
    else if (name_is(line, n, "content-length", &v, &k))
        h->length = num_read(v, v + k, &length) == v + k && length <= MESSAGE_BYTES ? (int64_t)length : -2;
}

/* 1: read; 0: not all there yet; -1: not an HTTP/1.1 answer. */
static int head_read(const uint8_t *p, size_t n, struct head *h)
{
    const uint8_t *end = memmem(p, n < HEAD_BYTES ? n : HEAD_BYTES, "\r\n\r\n", 4), *next;
    *h = (struct head){.length = -1};
    if (!end)
        return n >= HEAD_BYTES || memcmp(p, "HTTP/1.1 ", n < 9 ? n : 9) ? -1 : 0;
    h->size = (size_t)(end - p) + 4;
    uint64_t status;
    if (memcmp(p, "HTTP/1.1 ", 9) || num_read(p + 9, end, &status) != p + 12)
        return -1;
    h->status = (int)status;
    for (const uint8_t *line = memchr(p, '\n', h->size); line && line < end; line = next) {
        next = memmem(line, (size_t)(end + 2 - line), "\r\n", 2);
        head_line(h, line + 1, (size_t)(next - line - 1));
        next++; /* at the '\n' */
    }
    return 1;
}

/* ---- WebSocket ---- */

static void text_take(struct conn *c, uint8_t opcode, const uint8_t *p, size_t n)
{
    struct msg m;
    if (opcode == 1)
        msg_take(c, p, n, opt.hello, &m);
    else
        flaw(c, F_BAD_PAYLOAD, 1, -1, 0, p, n);
}

/* A message in pieces is rare: it is put together in memory of its own. False: too long. */
static bool frag_add(struct conn *c, uint8_t opcode, const uint8_t *p, size_t n)
{
    struct frag *f = c->frag;
    size_t len = f ? f->len : 0;
    if (len + n > MESSAGE_BYTES)
        return false;
    if (!f || len + n > f->cap) {
        size_t cap = (len + n) * 2 + 256;
        uint8_t op = f ? f->op : opcode;
        if (!(f = realloc(f, sizeof *f + cap)))
            abort();
        f->cap = cap, f->op = op, f->len = len;
    }
    memcpy(f->bytes + len, p, n);
    f->len += n;
    c->frag = f;
    return true;
}

static ssize_t close_take(struct conn *c, const uint8_t *p, size_t n)
{
    char code[8] = "1005";
    unsigned number = n >= 2 ? (unsigned)p[0] << 8 | p[1] : 1000;
    bool reserved = (number > 1003 && number < 1007) || (number > 1014 && number < 3000);
    bool known = number >= 1000 && number < 5000 && !reserved;
    if (n == 1 || !known || (n > 2 && !utf8_ok(p + 2, n - 2)))
        return feed_bad(c, F_BAD_FRAME, p, n);
    if (n)
        snprintf(code, sizeof code, "%u", number);
    conn_frame_send(c, 8, p, n >= 2 ? 2 : 0);
    conn_end(c, "join", code);
    return FEED_ENDED;
}

static ssize_t frame_take(struct conn *c, uint8_t opcode, bool fin, const uint8_t *p, size_t n)
{
    switch (opcode) {
    case 0:
        if (!frag_add(c, 0, p, n))
            return feed_bad(c, F_BAD_FRAME, p, n);
        if (fin) {
            text_take(c, c->frag->op, c->frag->bytes, c->frag->len);
            free(c->frag);
            c->frag = NULL;
        }
        return 0;
    case 8:
        return close_take(c, p, n);
    case 9:
        K.pings++;
        *(conn_frame_send(c, 10, p, n) ? &K.pongs : &K.pongs_failed) += 1;
        return 0;
    case 10:
        return 0;
    }
    if (fin)
        text_take(c, opcode, p, n);
    else
        frag_add(c, opcode, p, n);
    return 0;
}

/* Size of a frame's header and payload. 1: read; 0: not all there yet; -1: no server may send this. */
static inline int frame_head(const uint8_t *p, size_t have, bool in_message, size_t *head, uint64_t *payload)
{
    uint8_t opcode = p[0] & 15, fin = p[0] & 0x80;
    uint64_t n = p[1] & 0x7f;
    if (p[0] & 0x70 || (opcode > 2 && opcode < 8) || opcode > 10)
        return -1;
    if (opcode >= 8 ? (!fin || n > 125) : (opcode == 0) != in_message)
        return -1;
    *head = n < 126 ? 2 : n == 126 ? 4 : 10;
    if (have < *head)
        return 0;
    if (n >= 126) {
        uint64_t least = n == 126 ? 126 : 65536;
        n = 0;
        for (size_t i = 2; i < *head; i++)
            n = n << 8 | p[i];
        if (n < least || n > MESSAGE_BYTES)
            return -1;
    }
    *payload = n;
    return 1;
}

static ssize_t ws_feed(struct conn *c, const uint8_t *p, size_t n)
{
    size_t off = 0, head;
    uint64_t payload;
    while (n - off >= 2) {
        const uint8_t *f = p + off;
        if (f[1] & 0x80 && !(f[0] & 0x70))
            return feed_bad(c, F_MASKED_FRAME, f, n - off);
        int got = frame_head(f, n - off, c->frag != NULL, &head, &payload);
        if (got < 0)
            return feed_bad(c, F_BAD_FRAME, f, n - off);
        if (!got || n - off - head < payload)
            break;
        K.frames++;
        if (frame_take(c, f[0] & 15, f[0] >> 7, f + head, payload) == FEED_ENDED)
            return FEED_ENDED;
        off += head + payload;
    }
    return (ssize_t)off;
}

/* ---- SSE ---- */

struct event {
    const uint8_t *id, *name, *data;
    size_t id_len, name_len, data_len;
    bool bad, retry, comment;
};

static void event_line(struct event *e, const uint8_t *p, size_t n)
{
    const uint8_t *v;
    size_t k;
    if (n && p[n - 1] == '\r')
        n--;
    if (n && *p == ':')
        e->comment = true;
    else if (name_is(p, n, "data", &v, &k))
        e->bad |= e->data != NULL, e->data = v, e->data_len = k;
    else if (name_is(p, n, "id", &v, &k))
        e->bad |= e->id != NULL, e->id = v, e->id_len = k;
    else if (name_is(p, n, "event", &v, &k))
        e->bad |= e->name != NULL, e->name = v, e->name_len = k;
    else if (name_is(p, n, "retry", &v, &k))
        e->retry = true;
    else
        e->bad = true;
}

/* The vector against where this socket stands; `mine` is the lane that the data moved (to `id`), or -1. */
static void vector_check(struct conn *c, const uint8_t *text, size_t n, int mine, uint64_t id)
{
    struct vec v;
    bool ok = text && vec_read(text, text + n, &v) == text + n;
    if (ok) {
        if (!(c->flags & C_INC))
            c->inc = v.inc, c->flags |= C_INC;
        ok = c->inc == v.inc;
        for (int l = 0; l < LANES; l++) {
            if (!(c->flags & C_BASED << l))
                lane_base(c, l, v.pos[l]);
            ok &= v.pos[l] == (l == mine ? id : c->pos[l]);
        }
    }
    if (!ok)
        flaw(c, F_BAD_VECTOR, 1, mine, mine < 0 ? 0 : id, text ? text : (const uint8_t *)"", text ? n : 0);
}

static void event_take(struct conn *c, const struct event *e, const uint8_t *p, size_t n)
{
    struct msg m;
    K.heartbeats += e->comment;
    K.hints += e->retry;
    if (!e->data) {
        if (e->bad || e->id || e->name)
            flaw(c, F_BAD_EVENT, 1, -1, 0, p, n);
        return;
    }
    K.frames++;
    bool read = msg_take(c, e->data, e->data_len, opt.hello, &m);
    if (e->bad || (read && (!e->name || e->name_len != m.t_len || memcmp(e->name, m.t, m.t_len))))
        flaw(c, F_BAD_EVENT, 1, -1, 0, p, n);
    if (read)
        vector_check(c, e->id, e->id_len, m.lane, m.id);
}

static ssize_t sse_feed(struct conn *c, const uint8_t *p, size_t n)
{
    const uint8_t *end = p + n, *block = p, *line = p, *eol;
    struct event e = {0};
    for (; line < end && (eol = memchr(line, '\n', (size_t)(end - line))); line = eol + 1) {
        if (eol > line && !(eol == line + 1 && *line == '\r')) {
            event_line(&e, line, (size_t)(eol - line));
            continue;
        }
        if (line > block)
            event_take(c, &e, block, (size_t)(line - block));
        e = (struct event){0};
        block = eol + 1;
    }
    if (end - block > MESSAGE_BYTES)
        return feed_bad(c, F_BAD_EVENT, block, (size_t)(end - block));
    return block - p;
}

/* ---- long poll ---- */

/* The end of the JSON object that starts at p: strings are respected, nothing else is. */
static const uint8_t *object_end(const uint8_t *p, const uint8_t *end)
{
    int depth = 0;
    for (bool quoted = false; p < end; p++) {
        if (quoted) {
            if (*p == '\\')
                p++;
            else if (*p == '"')
                quoted = false;
        } else if (*p == '"')
            quoted = true;
        else if (*p == '{' || *p == '[')
            depth++;
        else if ((*p == '}' || *p == ']') && --depth == 0)
            return p + 1;
    }
    return NULL;
}

/* {"since":vector,"poll_ms":N,"m":[message...]}, in this order. */
static void answer_take(struct conn *c, const uint8_t *p, size_t n, uint64_t *poll_ms)
{
    const uint8_t *end = p + n, *since, *ms, *at, *next, *quote;
    struct msg m;
    since = n ? top_find(p, n, "\"since\":\"") : NULL;
    ms = n ? top_find(p, n, "\"poll_ms\":") : NULL;
    at = n ? top_find(p, n, "\"m\":") : NULL;
    if (!since || !ms || !num_read(ms, end, poll_ms) || !at || at >= end || *at != '[' || p[n - 1] != '}'
        || !(quote = memchr(since, '"', (size_t)(end - since)))) {
        flaw(c, F_BAD_PAYLOAD, 1, -1, 0, p, n);
        return;
    }
    for (at++; at < end && *at == '{'; at = next) {
        if (!(next = object_end(at, end)))
            break;
        K.frames++;
        msg_take(c, at, (size_t)(next - at), false, &m);
        if (next < end && *next == ',')
            next++;
    }
    if (at + 2 != end || *at != ']')
        flaw(c, F_BAD_PAYLOAD, 1, -1, 0, p, n);
    vector_check(c, since, (size_t)(quote - since), -1, 0);
}

static ssize_t poll_feed(struct conn *c, const uint8_t *p, size_t n)
{
    struct head h;
    char cause[16];
    uint64_t poll_ms = 0;
    int got = head_read(p, n, &h);
    if (!got)
        return 0;
    snprintf(cause, sizeof cause, "%d", got < 0 ? 0 : h.status);
    if (got < 0 || (h.status != 200 && h.status != 204) || h.chunked || (h.status == 200 && h.length < 0)) {
        conn_end(c, "http", got < 0 ? "not_http" : h.chunked ? "chunked" : h.status == 200 ? "no_length" : cause);
        return FEED_ENDED;
    }
    size_t body = h.status == 200 ? (size_t)h.length : 0;
    if (n - h.size < body)
        return 0;
    K.answers++;
    if (h.status == 200)
        answer_take(c, p + h.size, body, &poll_ms);
    if (n - h.size > body) { /* nobody asked for more */
        conn_end(c, "http", "surplus");
        return FEED_ENDED;
    }
    if (!(c->flags & C_HELLO))
        conn_joined(c);
    else
        op_settle(c, true); /* on a connection that replaces one which the server ended between two answers */
    poll_answered(c, poll_ms, h.close);
    return (ssize_t)n;
}

#endif
