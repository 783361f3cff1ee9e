# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
from edge._fast.sys cimport (NONE, hash_bytes, map_alloc, map_free, mem_alloc, mem_free, memcmp, memcpy, memset, slots_free,
                             slots_give, slots_init, slots_take)


cdef int registry_init(Registry* r, uint64_t seed) noexcept nogil:
    memset(r, 0, sizeof(Registry))
    r.seed = seed
    r.table_cap = 256
    r.table = <uint32_t*>mem_alloc(r.table_cap * 4)
    r.idents = <Ident*>map_alloc(<size_t>REGISTRY_MAX * sizeof(Ident))
    r.users = <User*>map_alloc(<size_t>REGISTRY_MAX * sizeof(User))
    if r.table == NULL or r.idents == NULL or r.users == NULL:
        return -1
    return -1 if slots_init(&r.ident_slots, REGISTRY_MAX) < 0 or slots_init(&r.user_slots, REGISTRY_MAX) < 0 else 0


cdef void registry_free(Registry* r) noexcept nogil:
    mem_free(r.table, r.table_cap * 4)
    map_free(r.idents, <size_t>REGISTRY_MAX * sizeof(Ident))
    map_free(r.users, <size_t>REGISTRY_MAX * sizeof(User))
    slots_free(&r.ident_slots)
    slots_free(&r.user_slots)
    r.table = NULL
    r.idents = NULL
    r.users = NULL


cdef uint32_t registry_seat(Registry* r, const uint8_t* name, size_t n) noexcept nogil:
    cdef uint32_t at = <uint32_t>(hash_bytes(name, n, r.seed) & (r.table_cap - 1))
    cdef User* u
    while r.table[at] != 0:
        u = &r.users[r.table[at] - 1]
        if u.len == n and memcmp(u.name, name, n) == 0:
            break
        at = (at + 1) & (r.table_cap - 1)
    return at


cdef int registry_grow(Registry* r) noexcept nogil:
    cdef uint32_t* old = r.table
    cdef uint32_t old_cap = r.table_cap, i
    cdef uint32_t* table = <uint32_t*>mem_alloc(<size_t>old_cap * 8)
    if table == NULL:
        return -1
    r.table = table
    r.table_cap = old_cap * 2
    for i in range(old_cap):
        if old[i] != 0:
            table[registry_seat(r, r.users[old[i] - 1].name, r.users[old[i] - 1].len)] = old[i]
    mem_free(old, <size_t>old_cap * 4)
    return 0


cdef uint32_t registry_user(Registry* r, const uint8_t* name, size_t n) noexcept nogil:
    cdef uint32_t at = registry_seat(r, name, n), index
    cdef User* u
    if r.table[at] != 0:
        return r.table[at] - 1
    if r.count * 2 >= r.table_cap:
        if registry_grow(r) < 0:
            return NONE
        at = registry_seat(r, name, n)
    index = slots_take(&r.user_slots)
    if index == NONE:
        return NONE
    u = &r.users[index]
    u.name = <uint8_t*>mem_alloc(n)
    if u.name == NULL:
        slots_give(&r.user_slots, index)
        return NONE
    memcpy(u.name, name, n)
    u.len = <uint32_t>n
    u.first = NONE
    u.count = 0
    r.table[at] = index + 1
    r.count += 1
    return index


cdef void registry_forget(Registry* r, uint32_t index) noexcept nogil:
    cdef User* u = &r.users[index]
    cdef User* other
    cdef uint32_t mask = r.table_cap - 1
    cdef uint32_t at = registry_seat(r, u.name, u.len), hole, home
    hole = at
    while True:         # no tombstones: whoever could have stood in the hole moves back into it
        at = (at + 1) & mask
        if r.table[at] == 0:
            break
        other = &r.users[r.table[at] - 1]
        home = <uint32_t>(hash_bytes(other.name, other.len, r.seed) & mask)
        if ((at - home) & mask) >= ((at - hole) & mask):
            r.table[hole] = r.table[at]
            hole = at
    r.table[hole] = 0
    r.count -= 1
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
    return 0


cdef void registry_remove(Registry* r, uint32_t ident) noexcept nogil:
    cdef Ident* i = &r.idents[ident]
    cdef User* u = &r.users[i.user]
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
    cdef uint32_t at = registry_seat(r, name, n)
    return &r.users[r.table[at] - 1] if r.table[at] != 0 else NULL
