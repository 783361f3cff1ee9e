// Coverage for a gcc build, where clang's fuzzer runtime is not at hand: -fsanitize-coverage=trace-pc,trace-cmp calls
// in here at every basic block and comparison. It owns one map of counters; a feature is an edge between two blocks with
// the power of two of how often it was taken, or a comparison with how many bits its sides had in common.
#include <stdint.h>
#include <string.h>

enum { SIZE = 1 << 17, EDGES = 1 << 16 };

static uint8_t now[SIZE], seen[SIZE];
static uintptr_t last;

static uint32_t hashed(uintptr_t x) { return (uint32_t)((x * 0x9E3779B97F4A7C15ull) >> 48); }

void __sanitizer_cov_trace_pc(void) {
    uintptr_t here = (uintptr_t)__builtin_return_address(0);
    uint8_t *at = &now[hashed(here ^ last)];
    *at += *at != 255;
    last = here << 1;
}

#define COMPARE(name, type) \
    void __sanitizer_cov_trace_##name(type a, type b) { \
        uintptr_t here = (uintptr_t)__builtin_return_address(0); \
        now[EDGES + hashed(here + (uintptr_t)__builtin_popcountll((uint64_t)(a ^ b)))] = 1; \
    }
COMPARE(cmp1, uint8_t)
COMPARE(cmp2, uint16_t)
COMPARE(cmp4, uint32_t)
COMPARE(cmp8, uint64_t)
COMPARE(const_cmp1, uint8_t)
COMPARE(const_cmp2, uint16_t)
COMPARE(const_cmp4, uint32_t)
COMPARE(const_cmp8, uint64_t)

void __sanitizer_cov_trace_switch(uint64_t value, uint64_t *cases) { (void)value, (void)cases; }
void __sanitizer_cov_trace_cmpf(float a, float b) { (void)a, (void)b; }
void __sanitizer_cov_trace_cmpd(double a, double b) { (void)a, (void)b; }

// How many features are new since the last call; the map is empty again afterwards.
int cover_new(void) {
    int found = 0;
    for (int i = 0; i < SIZE; i++) {
        if (!now[i]) continue;
        uint8_t bit = (uint8_t)(1 << (31 - __builtin_clz(now[i])));
        found += !(seen[i] & bit);
        seen[i] |= bit;
    }
    memset(now, 0, sizeof now);
    last = 0;
    return found;
}

int cover_edges(void) {
    int edges = 0;
    for (int i = 0; i < EDGES; i++) edges += seen[i] != 0;
    return edges;
}
