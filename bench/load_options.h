/* The load client's flags: what they are called, what they may be, what they are when nobody says.
 *
 * Owns: `opt`, which nothing writes once main has begun.
 * Must never: open a socket.
 */
#ifndef LOAD_OPTIONS_H
#define LOAD_OPTIONS_H

#include <getopt.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum mode { WS, SSE, POLL };
enum { READ_BYTES = 64 << 10 };

static struct {
    enum mode mode;
    const char *host, *path, *room, *query, *token, *tokens, *since, *subprotocol;
    unsigned port, count, rooms, stall, stall_rcvbuf, rcvbuf, ramp, sources, source_first, index_base, read_bytes;
    int cpu;
    bool split, hello, since_header;
    double timeout_s;
} opt = {
    .host = "127.0.0.1", .port = 8080, .count = 1, .room = "bench", .query = "", .subprotocol = "edge.v1.json",
    .stall_rcvbuf = 4096, .ramp = 200, .source_first = 2, .read_bytes = READ_BYTES, .cpu = -1, .hello = true,
    .timeout_s = 30,
};

static const char usage[] =
    "load --port N [--host 127.0.0.1] [--mode ws|sse|poll] [--count 1]\n"
    "  --room bench          or --rooms N: room-0, room-1, ... in turn\n"
    "  --path TEMPLATE       default /v1/rooms/ROOM/<mode>?last=0; ROOM and INDEX are filled in, here and in --query\n"
    "  --query TEXT          more of the query\n"
    "  --token T             token=T in the query; --tokens FILE: the file's lines in turn\n"
    "  --since VECTOR        resume from it; --since-by query|header (default: header for sse, else query)\n"
    "  --stall K             the first K join and then never read; --stall-rcvbuf 4096: their SO_RCVBUF\n"
    "  --rcvbuf N            the others' SO_RCVBUF (default: the kernel's)\n"
    "  --ramp 200            sockets between connect and joined; --timeout 30: seconds that one may take for it\n"
    "  --sources N           come from 127.0.0.2 and following in turn; without it, from the next after every 25,000\n"
    "  --source-first 2      the last number of the first of them\n"
    "  --subprotocol T       default edge.v1.json; '' for none\n"
    "  --hello yes|no        no, for a server that sends none: joined once upgraded, a lane's first id is its base\n"
    "  --cpu N               pin to a core\n"
    "  --index-base N        what INDEX starts at\n"
    "  --deflate no          there is nothing else\n"
    "  --read-bytes N        bytes to a recv, at most 65536; --split: socket i reads i + 1 bytes at a time\n";

static uint64_t option_number(const char *name, uint64_t least, uint64_t most)
{
    char *end;
    double v = strtod(optarg, &end); /* so that 1e4 is a number too */
    if (end == optarg || *end || !(v >= (double)least && v <= (double)most)) {
        fprintf(stderr, "load: --%s %s: a number from %llu to %llu is wanted\n", name, optarg,
                (unsigned long long)least, (unsigned long long)most);
        exit(2);
    }
    return (uint64_t)v;
}

static int option_choice(const char *name, const char *const *words)
{
    for (int i = 0; words[i]; i++)
        if (!strcmp(optarg, words[i]))
            return i;
    fprintf(stderr, "load: --%s %s is not known\n", name, optarg);
    exit(2);
}

static const struct {
    const char *name;
    const char **text;      /* either this */
    unsigned *number;       /* or this, within */
    uint64_t least, most;   /* these */
} plain_options[] = {
    {"host", &opt.host, NULL, 0, 0}, {"path", &opt.path, NULL, 0, 0}, {"room", &opt.room, NULL, 0, 0},
    {"query", &opt.query, NULL, 0, 0}, {"token", &opt.token, NULL, 0, 0}, {"tokens", &opt.tokens, NULL, 0, 0},
    {"since", &opt.since, NULL, 0, 0}, {"subprotocol", &opt.subprotocol, NULL, 0, 0},
    {"port", NULL, &opt.port, 1, 65535}, {"count", NULL, &opt.count, 1, 1000000},
    {"rooms", NULL, &opt.rooms, 1, 1000000}, {"stall", NULL, &opt.stall, 0, 1000000},
    {"stall-rcvbuf", NULL, &opt.stall_rcvbuf, 0, 1 << 30}, {"rcvbuf", NULL, &opt.rcvbuf, 0, 1 << 30},
    {"ramp", NULL, &opt.ramp, 1, 1000000}, {"sources", NULL, &opt.sources, 0, 60000},
    {"source-first", NULL, &opt.source_first, 1, 16000000}, {"index-base", NULL, &opt.index_base, 0, 4000000000},
    {"read-bytes", NULL, &opt.read_bytes, 1, READ_BYTES},
};
enum { PLAIN = sizeof plain_options / sizeof *plain_options };
enum special { MODE = PLAIN, SINCE_BY, TIMEOUT, HELLO, CPU, DEFLATE, SPLIT, HELP, SPECIALS };
static const char *const special_names[] = {"mode", "since-by", "timeout", "hello", "cpu", "deflate", "split", "help"};

static void option_take(int which, int *by_header)
{
    static const char *const modes[] = {"ws", "sse", "poll", NULL}, *const by[] = {"query", "header", NULL};
    static const char *const no_yes[] = {"no", "yes", NULL}, *const no[] = {"no", NULL};
    const char *name = which < PLAIN ? plain_options[which].name : special_names[which - PLAIN];
    if (which < PLAIN) {
        if (plain_options[which].text)
            *plain_options[which].text = optarg;
        else
            *plain_options[which].number =
                (unsigned)option_number(name, plain_options[which].least, plain_options[which].most);
        return;
    }
    switch ((enum special)which) {
    case MODE: opt.mode = (enum mode)option_choice(name, modes); break;
    case SINCE_BY: *by_header = option_choice(name, by); break;
    case TIMEOUT: option_number(name, 0, 86400), opt.timeout_s = strtod(optarg, NULL); break;
    case HELLO: opt.hello = option_choice(name, no_yes); break;
    case CPU: opt.cpu = (int)option_number(name, 0, CPU_SETSIZE - 1); break;
    case DEFLATE: option_choice(name, no); break;
    case SPLIT: opt.split = true; break;
    case HELP: fputs(usage, stdout); exit(0);
    case SPECIALS: break;
    }
}

static void options(int argc, char **argv)
{
    static const char *const paths[] = {
        "/v1/rooms/ROOM/ws?last=0", "/v1/rooms/ROOM/sse?last=0", "/v1/rooms/ROOM/poll?last=0"};
    struct option known[SPECIALS + 1] = {0};
    int at = 0, by_header = -1;
    for (int i = 0; i < SPECIALS; i++) {
        known[i].name = i < PLAIN ? plain_options[i].name : special_names[i - PLAIN];
        known[i].has_arg = i != SPLIT && i != HELP;
    }
    for (int got; (got = getopt_long(argc, argv, "", known, &at)) >= 0;) {
        if (got == '?')
            exit(2);
        option_take(at, &by_header);
    }
    if (optind < argc) {
        fputs(usage, stderr);
        exit(2);
    }
    opt.path = opt.path ? opt.path : paths[opt.mode];
    opt.since_header = by_header < 0 ? opt.mode == SSE : by_header;
}

#endif
