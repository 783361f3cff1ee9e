# What the engine asks of the machine: system calls, clocks, counted memory, and arrays that cost nothing until touched.
# Every native byte of the engine is taken and given back through mem_*, so that a test can see what was kept.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int32_t, int64_t

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int n, int timeout_ms)
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD
    uint32_t EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR, EPOLLET

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    ctypedef uint32_t socklen_t
    struct sockaddr:
        uint16_t sa_family
    struct sockaddr_storage:
        uint16_t ss_family
    struct msghdr:
        void* msg_name
        socklen_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    struct linger:
        int l_onoff
        int l_linger
    int accept4(int fd, sockaddr* addr, socklen_t* n, int flags)
    int listen(int fd, int backlog)
    int shutdown(int fd, int how)
    int getpeername(int fd, sockaddr* addr, socklen_t* n)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t n)
    ssize_t recv(int fd, void* p, size_t n, int flags)
    ssize_t send(int fd, const void* p, size_t n, int flags)
    ssize_t sendmsg(int fd, const msghdr* m, int flags)
    int AF_INET, AF_INET6, SOL_SOCKET, SO_LINGER, SOCK_NONBLOCK, SOCK_CLOEXEC, SHUT_RD, SHUT_WR, SHUT_RDWR
    int MSG_PEEK, MSG_TRUNC, MSG_DONTWAIT, MSG_NOSIGNAL

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr
    struct sockaddr_in:
        uint16_t sin_port
        in_addr sin_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in6:
        uint16_t sin6_port
        in6_addr sin6_addr

cdef extern from "<errno.h>" nogil:
    int errno
    int EAGAIN, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, ECONNABORTED

cdef extern from "<unistd.h>" nogil:
    int close(int fd)
    ssize_t read(int fd, void* p, size_t n)

cdef extern from "<string.h>" nogil:
    void* memcpy(void* to, const void* source, size_t n)
    void* memmove(void* to, const void* source, size_t n)
    void* memset(void* p, int c, size_t n)
    int memcmp(const void* a, const void* b, size_t n)

cdef extern from * nogil:
    int ctz64 "__builtin_ctzll"(uint64_t x)

cdef enum:
    NONE = 0xFFFFFFFF           # no slot, no index

cdef void* mem_alloc(size_t n) noexcept nogil           # NULL when there is none
cdef void* mem_grow(void* p, size_t old, size_t new) noexcept nogil
cdef void mem_free(void* p, size_t n) noexcept nogil
cdef void* map_alloc(size_t n) noexcept nogil           # zeroed: a page costs memory when it is first written
cdef void map_free(void* p, size_t n) noexcept nogil
cdef uint64_t now_ns() noexcept nogil                   # CLOCK_MONOTONIC
cdef uint64_t wall_ms() noexcept nogil                  # CLOCK_REALTIME: may be set, forward and back
cdef int timer_open(int every_ms) noexcept nogil        # a timerfd
cdef uint64_t hash_bytes(const void* p, size_t n, uint64_t seed) noexcept nogil


# Slots, the lowest free one first: a bit for each that is taken, and a bit for each word that is full. Lowest first
# keeps the sockets of a room close together, which is worth 12 to 20 % of a broadcast.
ctypedef struct Slots:
    uint64_t* words
    uint64_t* sums
    uint32_t cap
    uint32_t free

cdef int slots_init(Slots* s, uint32_t cap) noexcept nogil
cdef void slots_free(Slots* s) noexcept nogil
cdef uint32_t slots_take(Slots* s) noexcept nogil       # NONE when all are taken
cdef void slots_give(Slots* s, uint32_t slot) noexcept nogil
