# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False, binding=False
from edge._fast.const cimport LANE_CHAT, LANE_MUST
from edge._fast.log cimport log_append, log_cool, log_frame, log_free, log_init, log_trim
from edge._fast.names cimport names_add, names_find, names_free, names_init, names_remove
from edge._fast.sys cimport (NONE, ctz64, map_alloc, map_free, mem_alloc, mem_free, mem_grow, memcpy, memset,
                             slots_free, slots_give, slots_init, slots_take)


cdef int rooms_init(Rooms* r, uint32_t cap, uint64_t seed) noexcept nogil:
    memset(r, 0, sizeof(Rooms))
    r.cap = cap
    r.newest = r.oldest = r.job_first = r.job_last = NONE
    r.rooms = <Room**>map_alloc(cap * sizeof(Room*))
    if r.rooms == NULL or names_init(&r.names, seed) < 0 or slots_init(&r.slots, cap) < 0:
        return -1
    return 0


cdef void rooms_free(Rooms* r) noexcept nogil:
    while r.names.count:
        room_drop(r, r.rooms[r.oldest])
    names_free(&r.names)
    slots_free(&r.slots)
    map_free(r.rooms, r.cap * sizeof(Room*))
    r.rooms = NULL


cdef Room* room_find(Rooms* r, const uint8_t* name, size_t n) noexcept nogil:
    cdef uint32_t index = names_find(&r.names, name, n)
    return r.rooms[index] if index != NONE else NULL


cdef Room* room_open(Rooms* r, const uint8_t* name, size_t n, uint64_t incarnation, uint64_t must, uint64_t chat,
                     uint32_t must_limit, uint32_t chat_limit) noexcept nogil:
    cdef Room* room
    if n == 0 or n > ROOM_NAME or r.slots.free == 0 or names_find(&r.names, name, n) != NONE:
        return NULL
    room = <Room*>mem_alloc(sizeof(Room))
    if room == NULL:
        return NULL
    memcpy(room.name, name, n)
    room.name_len = <uint8_t>n
    room.index = slots_take(&r.slots)
    if names_add(&r.names, room.name, n, room.index) < 0:
        slots_give(&r.slots, room.index)
        mem_free(room, sizeof(Room))
        return NULL
    room.incarnation = incarnation
    log_init(&room.logs[LANE_MUST], LANE_MUST, must_limit, must, &r.held, r.encoded)
    log_init(&room.logs[LANE_CHAT], LANE_CHAT, chat_limit, chat, &r.held, r.encoded)
    r.rooms[room.index] = room
    room.newer = room.older = NONE
    room_link(r, room)
    return room


cdef void room_link(Rooms* r, Room* room) noexcept nogil:
    room.older = r.newest
    room.newer = NONE
    if r.newest != NONE:
        r.rooms[r.newest].newer = room.index
    else:
        r.oldest = room.index
    r.newest = room.index


cdef void room_unlink(Rooms* r, Room* room) noexcept nogil:
    if room.newer != NONE:
        r.rooms[room.newer].older = room.older
    else:
        r.newest = room.older
    if room.older != NONE:
        r.rooms[room.older].newer = room.newer
    else:
        r.oldest = room.newer


cdef void room_use(Rooms* r, Room* room) noexcept nogil:
    if r.newest != room.index:
        room_unlink(r, room)
        room_link(r, room)


cdef void room_drop(Rooms* r, Room* room) noexcept nogil:
    cdef uint32_t i
    names_remove(&r.names, room.name, room.name_len)
    room_unlink(r, room)
    job_unlink(r, room)
    r.rooms[room.index] = NULL
    slots_give(&r.slots, room.index)
    log_free(&room.logs[LANE_MUST])
    log_free(&room.logs[LANE_CHAT])
    for i in range(room.chunk_count):
        mem_free(room.chunks[i], CHUNK_WORDS * 8)
    mem_free(room.chunks, room.chunk_count * sizeof(uint64_t*))
    mem_free(room, sizeof(Room))


cdef int members_add(Room* room, uint32_t slot) noexcept nogil:
    cdef uint32_t chunk = slot // (CHUNK_WORDS * 64)
    cdef uint32_t count, i
    cdef void* p
    if chunk >= room.chunk_count:
        count = max(chunk + 1, room.chunk_count + room.chunk_count // 2)
        p = mem_grow(room.chunks, room.chunk_count * sizeof(uint64_t*), count * sizeof(uint64_t*))
        if p == NULL:
            return -1
        room.chunks = <uint64_t**>p
        for i in range(room.chunk_count, count):
            room.chunks[i] = NULL
        room.chunk_count = count
    if room.chunks[chunk] == NULL:
        room.chunks[chunk] = <uint64_t*>mem_alloc(CHUNK_WORDS * 8)
        if room.chunks[chunk] == NULL:
            return -1
    room.chunks[chunk][(slot >> 6) & (CHUNK_WORDS - 1)] |= <uint64_t>1 << (slot & 63)
    room.viewers += 1
    return 0


cdef void members_remove(Room* room, uint32_t slot) noexcept nogil:
    cdef uint32_t chunk = slot // (CHUNK_WORDS * 64)
    cdef uint32_t i
    cdef uint64_t left = 0
    room.chunks[chunk][(slot >> 6) & (CHUNK_WORDS - 1)] &= ~(<uint64_t>1 << (slot & 63))
    room.viewers -= 1
    for i in range(<uint32_t>CHUNK_WORDS):
        left |= room.chunks[chunk][i]
    if left == 0:
        mem_free(room.chunks[chunk], CHUNK_WORDS * 8)
        room.chunks[chunk] = NULL


cdef uint32_t members_next(Room* room, uint32_t slot) noexcept nogil:
    cdef uint32_t chunk = slot // (CHUNK_WORDS * 64)
    cdef uint32_t word = (slot >> 6) & (CHUNK_WORDS - 1)
    cdef uint64_t bits
    cdef uint64_t mask = ~<uint64_t>0 << (slot & 63)
    while chunk < room.chunk_count:
        if room.chunks[chunk] != NULL:
            while word < CHUNK_WORDS:
                bits = room.chunks[chunk][word] & mask
                if bits != 0:
                    return chunk * (CHUNK_WORDS * 64) + word * 64 + <uint32_t>ctz64(bits)
                mask = ~<uint64_t>0
                word += 1
        mask = ~<uint64_t>0
        word = 0
        chunk += 1
    return NONE


cdef void room_job(Rooms* r, Room* room) noexcept nogil:
    cdef Job* j = &room.job
    if j.listed:
        return
    j.listed = 1
    j.next = NONE
    j.prev = r.job_last
    if r.job_last != NONE:
        r.rooms[r.job_last].job.next = room.index
    else:
        r.job_first = room.index
    r.job_last = room.index
    r.job_n += 1


cdef void job_unlink(Rooms* r, Room* room) noexcept nogil:
    cdef Job* j = &room.job
    if not j.listed:
        return
    j.listed = 0
    if j.prev != NONE:
        r.rooms[j.prev].job.next = j.next
    else:
        r.job_first = j.next
    if j.next != NONE:
        r.rooms[j.next].job.prev = j.prev
    else:
        r.job_last = j.prev
    r.job_n -= 1


cdef Room* rooms_job(Rooms* r, uint64_t now, uint32_t* looks) noexcept nogil:
    cdef Room* room
    cdef Job* j
    cdef uint64_t ns, ms
    cdef bint tells
    while looks[0] > 0 and r.job_first != NONE:
        looks[0] -= 1
        room = r.rooms[r.job_first]
        job_unlink(r, room)
        j = &room.job
        ns = j.longest_ns
        if room.sweeps[LANE_CHAT].queued:
            ns = max(ns, now - room.sweeps[LANE_CHAT].began_ns)
        ms = ns // 1000000
        tells = room.viewers != j.told_viewers or ms != j.told_ms or ns > <uint64_t>JOB_NS
        j.longest_ns = 0
        j.told_viewers = room.viewers
        j.told_ms = ms
        if ms or room.sweeps[LANE_CHAT].queued:     # that it takes no time any more is to be reported as well
            room_job(r, room)
        if tells:
            return room
    return NULL


cdef int rooms_shed(Rooms* r, uint64_t budget, uint64_t* frames, uint64_t* batches) noexcept nogil:
    cdef uint32_t at, step
    cdef uint64_t before
    cdef Room* room
    for step in range(3):
        at = r.oldest
        while at != NONE and r.held > budget:
            room = r.rooms[at]
            at = room.newer
            if step == 0:
                before = r.held
                log_cool(&room.logs[LANE_MUST])
                log_cool(&room.logs[LANE_CHAT])
                frames[0] += r.held < before
            elif step == 1:
                batches[0] += log_trim(&room.logs[LANE_CHAT], 0)
            else:
                batches[0] += log_trim(&room.logs[LANE_MUST], 0)
    return 0 if r.held <= budget else -1


# ---- for tests ----

cdef class RoomsProbe:
    cdef Rooms r

    def __cinit__(self, uint32_t cap, uint64_t seed):
        if rooms_init(&self.r, cap, seed) < 0:
            raise MemoryError

    def __dealloc__(self):
        rooms_free(&self.r)

    cdef Room* room(self, bytes name) except NULL:
        cdef Room* room = room_find(&self.r, name, len(name))
        if room == NULL:
            raise KeyError(name)
        return room

    def open(self, bytes name, uint32_t must_limit=65536, uint32_t chat_limit=262144):
        return room_open(&self.r, name, len(name), 1, 0, 0, must_limit, chat_limit) != NULL

    def drop(self, bytes name):
        room_drop(&self.r, self.room(name))

    def index(self, bytes name):
        cdef Room* room = room_find(&self.r, name, len(name))
        return None if room == NULL else room.index

    def use(self, bytes name):
        room_use(&self.r, self.room(name))

    def count(self):
        return self.r.names.count

    def coldest_first(self):
        cdef uint32_t at = self.r.oldest
        names = []
        while at != NONE:
            names.append(self.r.rooms[at].name[:self.r.rooms[at].name_len])
            at = self.r.rooms[at].newer
        return names

    def append(self, bytes name, int lane, bytes canon, tuple encodings=()):
        """The lane's next batch, with a frame for each of the encodings."""
        cdef Log* g = &self.room(name).logs[lane]
        if log_append(g, g.head + 1, 1, canon, <uint32_t>len(canon)) < 0:
            raise MemoryError
        for enc in encodings:
            log_frame(g, g.head, enc)

    def kept(self, bytes name):
        """(must, chat): how many batches."""
        cdef Room* room = self.room(name)
        return room.logs[0].head + 1 - room.logs[0].tail, room.logs[1].head + 1 - room.logs[1].tail

    def held(self):
        return self.r.held

    def shed(self, uint64_t budget):
        """(did it do, rooms, batches)."""
        cdef uint64_t rooms = 0, batches = 0
        done = rooms_shed(&self.r, budget, &rooms, &batches) == 0
        return done, rooms, batches

    def join(self, bytes name, uint32_t slot):
        if members_add(self.room(name), slot) < 0:
            raise MemoryError

    def leave(self, bytes name, uint32_t slot):
        members_remove(self.room(name), slot)

    def next(self, bytes name, uint32_t slot):
        cdef uint32_t found = members_next(self.room(name), slot)
        return None if found == NONE else found

    def viewers(self, bytes name):
        return self.room(name).viewers
