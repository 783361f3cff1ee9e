/* What the load client counts, and how it says so.
 *
 * Owns: the names of the flaws, the counters that `reset` zeroes, the histograms, the line of JSON that goes out.
 * Must never: know what a position is (load_check.h) or touch a socket (load.c).
 */
#ifndef LOAD_COUNT_H
#define LOAD_COUNT_H

#include <inttypes.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum lane { LANE_M, LANE_C, LANES };

/* The first LANE_FLAWS are counted by lane too. What they mean stands where they are found: load_check.h and
 * load_stream.h. */
enum flaw {
    F_MISSED, F_REPEATED, F_OUT_OF_ORDER, F_BAD_GAP, LANE_FLAWS,
    F_BAD_ID = LANE_FLAWS, F_BAD_HELLO, F_NO_HELLO, F_BAD_RESUME, F_BAD_VECTOR, F_BAD_PAYLOAD, F_BAD_UTF8, F_BAD_FRAME,
    F_MASKED_FRAME, F_BAD_EVENT, FLAWS
};
static const char *const flaw_names[FLAWS] = {
    "missed", "repeated", "out_of_order", "bad_gap", "bad_id", "bad_hello", "no_hello", "bad_resume", "bad_vector",
    "bad_payload", "bad_utf8", "bad_frame", "masked_frame", "bad_event",
};

/* Log-scaled: 32 buckets to an octave, so that a percentile is at most 3.2 % above the truth, never below it. */
enum { HIST_SUB_BITS = 5, HIST_SUB = 1 << HIST_SUB_BITS, HIST_BUCKETS = (64 - HIST_SUB_BITS + 1) * HIST_SUB };
struct hist {
    uint64_t n, max;
    double sum;
    uint64_t bucket[HIST_BUCKETS];
};

enum { TALLY_NAMES = 48, EXAMPLES = 8 };
struct tally {
    char name[44];
    uint64_t n;
};

struct lane_count {
    uint64_t messages, gaps, gapped, replayed;
    uint64_t flaw[LANE_FLAWS];
    struct hist latency;
};

/* The first flaws in full: a bare count does not lead anybody to the cause. */
struct example {
    enum flaw flaw;
    uint32_t socket;
    int lane;
    uint64_t last, got;
    char text[97];
};

struct counters {
    uint64_t connected, failed, closed, dropped, reads, bytes, frames, hellos, resumed;
    uint64_t pings, pongs, pongs_failed, heartbeats, hints, acks, others, answers, stamps_ahead;
    uint64_t flaw[FLAWS];
    struct lane_count lane[LANES];
    struct tally failures[TALLY_NAMES], closes[TALLY_NAMES];
    struct example example[EXAMPLES];
    unsigned examples;
};
static struct counters K;

static inline unsigned hist_index(uint64_t v)
{
    if (v < HIST_SUB)
        return (unsigned)v;
    unsigned octave = 63 - (unsigned)__builtin_clzll(v);
    return (octave - HIST_SUB_BITS + 1) * HIST_SUB + (unsigned)((v >> (octave - HIST_SUB_BITS)) & (HIST_SUB - 1));
}

static inline uint64_t hist_upper(unsigned index)
{
    if (index < HIST_SUB)
        return index;
    unsigned shift = index / HIST_SUB - 1;
    uint64_t low = (uint64_t)(HIST_SUB + index % HIST_SUB) << shift;
    return low + (((uint64_t)1 << shift) - 1);
}

static inline void hist_add(struct hist *h, uint64_t v)
{
    h->n++;
    h->sum += (double)v;
    if (v > h->max)
        h->max = v;
    h->bucket[hist_index(v)]++;
}

static uint64_t hist_quantile(const struct hist *h, double q)
{
    double rank = q * (double)h->n;
    uint64_t sum = 0;
    for (unsigned i = 0; i < HIST_BUCKETS; i++) {
        sum += h->bucket[i];
        if (sum && (double)sum >= rank)
            return hist_upper(i) < h->max ? hist_upper(i) : h->max;
    }
    return h->max;
}

/* The last slot takes whatever no longer fits, so that a total never lies. */
static void tally_add(struct tally *t, const char *name)
{
    int i = 0;
    while (i < TALLY_NAMES - 1 && t[i].n && strncmp(t[i].name, name, sizeof t[i].name - 1))
        i++;
    if (!t[i].n)
        snprintf(t[i].name, sizeof t[i].name, "%s", i == TALLY_NAMES - 1 ? "other" : name);
    t[i].n++;
}

static void count_example(enum flaw flaw, uint32_t socket, int lane, uint64_t last, uint64_t got, const uint8_t *text,
                          size_t n)
{
    struct example *e = &K.example[K.examples++];
    *e = (struct example){.flaw = flaw, .socket = socket, .lane = lane, .last = last, .got = got};
    for (size_t i = 0; i < n && i < sizeof e->text - 1; i++) { /* made harmless to JSON rather than escaped */
        char b = text[i] < 32 || text[i] > 126 ? '.' : (char)text[i];
        e->text[i] = b == '"' ? '\'' : b == '\\' ? '/' : b;
    }
}

/* One answer is built up here and goes out as one line. */
static char out_text[1 << 16];
static size_t out_len;

__attribute__((format(printf, 1, 2))) static void out(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(out_text + out_len, sizeof out_text - 1 - out_len, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof out_text - 1 - out_len) {
        fprintf(stderr, "load: an answer outgrew its buffer\n");
        exit(3);
    }
    out_len += (size_t)n;
}

static void out_send(void)
{
    out_text[out_len++] = '\n';
    for (size_t off = 0; off < out_len;) {
        ssize_t n = write(STDOUT_FILENO, out_text + off, out_len - off);
        if (n < 0)
            exit(0); /* nobody listens any more: that is an order to end, not an error */
        off += (size_t)n;
    }
    out_len = 0;
}

static void out_tally(const char *name, const struct tally *t)
{
    out(",\"%s\":{", name);
    for (int i = 0; i < TALLY_NAMES; i++)
        if (t[i].n)
            out("%s\"%s\":%" PRIu64, i ? "," : "", t[i].name, t[i].n);
    out("}");
}

static void out_latency(const struct hist *h)
{
    out("\"latency\":{\"n\":%" PRIu64 ",\"mean_ns\":%.0f,\"p50_ns\":%" PRIu64 ",\"p90_ns\":%" PRIu64, h->n,
        h->n ? h->sum / (double)h->n : 0.0, hist_quantile(h, 0.5), hist_quantile(h, 0.9));
    out(",\"p99_ns\":%" PRIu64 ",\"p999_ns\":%" PRIu64 ",\"max_ns\":%" PRIu64 "}", hist_quantile(h, 0.99),
        hist_quantile(h, 0.999), h->max);
}

static void out_lanes(void)
{
    out(",\"lanes\":{");
    for (int l = 0; l < LANES; l++) {
        const struct lane_count *c = &K.lane[l];
        out("%s\"%c\":{\"messages\":%" PRIu64 ",\"gaps\":%" PRIu64, l ? "," : "", "mc"[l], c->messages, c->gaps);
        out(",\"gapped\":%" PRIu64 ",\"replayed\":%" PRIu64 ",", c->gapped, c->replayed);
        for (int f = 0; f < LANE_FLAWS; f++)
            out("\"%s\":%" PRIu64 ",", flaw_names[f], c->flaw[f]);
        out_latency(&c->latency);
        out("}");
    }
    out("}");
}

static void out_flaws(void)
{
    uint64_t sum = 0;
    out(",\"flaws\":{");
    for (int f = 0; f < FLAWS; f++) {
        out("%s\"%s\":%" PRIu64, f ? "," : "", flaw_names[f], K.flaw[f]);
        sum += K.flaw[f];
    }
    out("},\"flawed\":%" PRIu64 ",\"examples\":[", sum);
    for (unsigned i = 0; i < K.examples; i++) {
        const struct example *e = &K.example[i];
        out("%s{\"flaw\":\"%s\",\"socket\":%u,\"lane\":\"%s\"", i ? "," : "", flaw_names[e->flaw], e->socket,
            e->lane < 0 ? "" : e->lane == LANE_M ? "m" : "c");
        out(",\"last\":%" PRIu64 ",\"got\":%" PRIu64 ",\"text\":\"%s\"}", e->last, e->got, e->text);
    }
    out("]");
}

static void out_counts(void)
{
#define OUT(name) out(",\"" #name "\":%" PRIu64, K.name)
    OUT(connected), OUT(failed), OUT(closed), OUT(dropped), OUT(reads), OUT(bytes), OUT(frames), OUT(answers);
    OUT(hellos), OUT(resumed), OUT(pings), OUT(pongs), OUT(pongs_failed), OUT(heartbeats), OUT(hints), OUT(acks);
    OUT(others), OUT(stamps_ahead);
#undef OUT
    out_tally("failures", K.failures);
    out_tally("closes", K.closes);
    out_lanes();
    out_flaws();
}

#endif
