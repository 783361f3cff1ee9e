# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
from edge._fast.names cimport names_add, names_find, names_free, names_init, names_remove
from edge._fast.sys cimport (NONE, map_alloc, map_free, mem_alloc, mem_free, memcpy, memset, slots_free, slots_give,
                             slots_init, slots_take)


cdef int registry_init(Registry* r, uint64_t seed, uint64_t now) noexcept nogil:
    memset(r, 0, sizeof(Registry))
    r.start_ns = now
    r.idents = <Ident*>map_alloc(<size_t>REGISTRY_MAX * sizeof(Ident))
    r.users = <User*>map_alloc(<size_t>REGISTRY_MAX * sizeof(User))
    r.wheel = <uint32_t*>map_alloc(EXPIRY_BUCKETS * sizeof(uint32_t))
    if r.idents == NULL or r.users == NULL or r.wheel == NULL or names_init(&r.names, seed) < 0:
        return -1
    return -1 if slots_init(&r.ident_slots, REGISTRY_MAX) < 0 or slots_init(&r.user_slots, REGISTRY_MAX) < 0 else 0


cdef void registry_free(Registry* r) noexcept nogil:
    names_free(&r.names)
    map_free(r.idents, <size_t>REGISTRY_MAX * sizeof(Ident))
    map_free(r.users, <size_t>REGISTRY_MAX * sizeof(User))
    slots_free(&r.ident_slots)
    slots_free(&r.user_slots)
    map_free(r.wheel, EXPIRY_BUCKETS * sizeof(uint32_t))
    r.idents = NULL
    r.users = NULL
    r.wheel = NULL
    r.armed = 0


cdef uint32_t registry_user(Registry* r, const uint8_t* name, size_t n) noexcept nogil:
    cdef uint32_t index = names_find(&r.names, name, n)
    cdef User* u
    if index != NONE:
        return index
    index = slots_take(&r.user_slots)
    if index == NONE:
        return NONE
    u = &r.users[index]
    u.name = <uint8_t*>mem_alloc(n)
    if u.name != NULL:
        memcpy(u.name, name, n)
        u.len = <uint32_t>n
        u.first = NONE
        u.count = 0
        if names_add(&r.names, u.name, n, index) == 0:
            return index
        mem_free(u.name, n)
    slots_give(&r.user_slots, index)
    return NONE


cdef void registry_forget(Registry* r, uint32_t index) noexcept nogil:
    cdef User* u = &r.users[index]
    names_remove(&r.names, u.name, u.len)
    mem_free(u.name, u.len)
    u.name = NULL
    slots_give(&r.user_slots, index)


cdef uint32_t registry_add(Registry* r, uint32_t slot, const uint8_t* name, size_t n, const uint8_t* claims, size_t m,
                           uint32_t expires) noexcept nogil:
    cdef uint32_t user, ident
    cdef Ident* i
    cdef User* u
    user = registry_user(r, name, n)
    if user == NONE:
        return NONE
    u = &r.users[user]
    ident = slots_take(&r.ident_slots)
    if ident != NONE:
        i = &r.idents[ident]
        i.claims = <uint8_t*>mem_alloc(m) if m else NULL
        if m and i.claims == NULL:
            slots_give(&r.ident_slots, ident)
            ident = NONE
    if ident == NONE:
        if u.count == 0:
            registry_forget(r, user)
        return NONE
    if m:
        memcpy(i.claims, claims, m)
    i.claims_len = <uint32_t>m
    i.user = user
    i.slot = slot
    i.expires = expires
    i.bucket = EXPIRY_NONE
    i.warned = 0
    i.prev = NONE
    i.next = u.first
    if u.first != NONE:
        r.idents[u.first].prev = ident
    u.first = ident
    u.count += 1
    return ident


cdef int registry_renew(Registry* r, uint32_t ident, const uint8_t* claims, size_t m, uint32_t expires) noexcept nogil:
    cdef Ident* i = &r.idents[ident]
    cdef uint8_t* fresh = <uint8_t*>mem_alloc(m) if m else NULL
    if m and fresh == NULL:
        return -1
    if m:
        memcpy(fresh, claims, m)
    mem_free(i.claims, i.claims_len)
    i.claims = fresh
    i.claims_len = <uint32_t>m
    i.expires = expires
    i.warned = 0
    return 0


cdef void registry_remove(Registry* r, uint32_t ident) noexcept nogil:
    cdef Ident* i = &r.idents[ident]
    cdef User* u = &r.users[i.user]
    expiry_stop(r, ident)
    if i.prev != NONE:
        r.idents[i.prev].next = i.next
    else:
        u.first = i.next
    if i.next != NONE:
        r.idents[i.next].prev = i.prev
    u.count -= 1
    if u.count == 0:
        registry_forget(r, i.user)
    mem_free(i.claims, i.claims_len)
    i.claims = NULL
    slots_give(&r.ident_slots, ident)


cdef User* registry_find(Registry* r, const uint8_t* name, size_t n) noexcept nogil:
    cdef uint32_t index = names_find(&r.names, name, n)
    return &r.users[index] if index != NONE else NULL


cdef void expiry_put(Registry* r, uint32_t ident) noexcept nogil:
    # As far as a round reaches; what is due behind that is moved on when the wheel has come there.
    cdef Ident* i = &r.idents[ident]
    i.bucket = <uint16_t>(min(<uint64_t>i.due, r.wheel_at + <uint64_t>EXPIRY_BUCKETS - 1) % <uint64_t>EXPIRY_BUCKETS)
    i.wheel_prev = NONE
    i.wheel_next = r.wheel[i.bucket] - 1        # 0, nobody, becomes NONE
    if i.wheel_next != NONE:
        r.idents[i.wheel_next].wheel_prev = ident
    r.wheel[i.bucket] = ident + 1
    r.armed += 1


cdef void expiry_set(Registry* r, uint32_t ident, uint64_t now, uint64_t in_ms) noexcept nogil:
    cdef uint64_t step = expiry_step(r, now)
    expiry_stop(r, ident)
    if r.armed == 0:
        r.wheel_at = step               # nobody was waiting: the wheel has stood still
    # Rounded up, and behind the bucket that is being emptied: the walk of this turn does not meet it again.
    step = max(step, r.wheel_at) + (in_ms + EXPIRY_MS - 1) // <uint64_t>EXPIRY_MS + 1
    r.idents[ident].due = <uint32_t>min(step, <uint64_t>0xFFFFFFFF)
    expiry_put(r, ident)


cdef void expiry_stop(Registry* r, uint32_t ident) noexcept nogil:
    cdef Ident* i = &r.idents[ident]
    if i.bucket == EXPIRY_NONE:
        return
    if i.wheel_prev != NONE:
        r.idents[i.wheel_prev].wheel_next = i.wheel_next
    else:
        r.wheel[i.bucket] = i.wheel_next + 1
    if i.wheel_next != NONE:
        r.idents[i.wheel_next].wheel_prev = i.wheel_prev
    i.bucket = EXPIRY_NONE
    r.armed -= 1


cdef int expiry_due(Registry* r, uint64_t now, uint32_t* ident) noexcept nogil:
    cdef uint64_t at = expiry_step(r, now)
    cdef uint32_t first
    if r.armed == 0:
        return EXPIRY_IDLE
    if at > r.wheel_at + <uint64_t>EXPIRY_BUCKETS:      # the process stood still: once round finds everybody
        r.wheel_at = at - <uint64_t>EXPIRY_BUCKETS
    while True:
        first = r.wheel[r.wheel_at % <uint64_t>EXPIRY_BUCKETS]
        if first != 0:
            ident[0] = first - 1
            expiry_stop(r, first - 1)
            if r.idents[first - 1].due <= at:
                return EXPIRY_DUE
            expiry_put(r, first - 1)
            return EXPIRY_MOVED
        if r.wheel_at >= at:
            return EXPIRY_IDLE
        r.wheel_at += 1


# ---- for tests ----

IDENT_SIZE = sizeof(Ident)
ROUND_MS = EXPIRY_BUCKETS * EXPIRY_MS


cdef class RegistryProbe:
    cdef Registry r

    def __cinit__(self, uint64_t seed):
        if registry_init(&self.r, seed, 0) < 0:
            registry_free(&self.r)
            raise MemoryError

    def __dealloc__(self):
        registry_free(&self.r)

    def add(self, uint32_t slot, bytes name, bytes claims, uint32_t expires=0):
        cdef uint32_t ident = registry_add(&self.r, slot, name, len(name), claims, len(claims), expires)
        return None if ident == NONE else ident

    def renew(self, uint32_t ident, bytes claims, uint32_t expires=0):
        return registry_renew(&self.r, ident, claims, len(claims), expires)

    def remove(self, uint32_t ident):
        registry_remove(&self.r, ident)

    def claims(self, uint32_t ident):
        return self.r.idents[ident].claims[:self.r.idents[ident].claims_len]

    def slots_of(self, bytes name):
        cdef User* u = registry_find(&self.r, name, len(name))
        cdef uint32_t at = NONE if u == NULL else u.first
        slots = []
        while at != NONE:
            slots.append(self.r.idents[at].slot)
            at = self.r.idents[at].next
        return slots

    def users(self):
        return self.r.names.count

    def set(self, uint32_t ident, uint64_t now_ms, uint64_t in_ms):
        expiry_set(&self.r, ident, now_ms * 1000000, in_ms)

    def stop(self, uint32_t ident):
        expiry_stop(&self.r, ident)

    def waits(self, uint64_t now_ms):
        return expiry_waits(&self.r, now_ms * 1000000)

    def due(self, uint64_t now_ms, uint32_t most=0xFFFFFFFF):
        """The idents whose time has come, each taken out, and the steps that it took; at most so many."""
        cdef uint32_t ident, steps = 0
        cdef int what = EXPIRY_MOVED
        idents = []
        while what != EXPIRY_IDLE and steps < most:
            what = expiry_due(&self.r, now_ms * 1000000, &ident)
            steps += what != EXPIRY_IDLE
            if what == EXPIRY_DUE:
                idents.append(ident)
        return idents, steps
